"""The columns of jobs that a child process does, and of what is kept of its attempts, its events and its log."""

import uuid
from datetime import datetime
from typing import TYPE_CHECKING, Any, ClassVar

from sqlalchemy import BigInteger, Double, Integer, LargeBinary, Text, false, func
from sqlalchemy.orm import Mapped, mapped_column

from service.db.models.job import Job


class AttemptColumns:
    """Who tried, on what, how it ended, and how far its files have been read into rows."""

    if TYPE_CHECKING:
        job_id: Mapped[uuid.UUID]

    number: Mapped[int] = mapped_column(Integer, primary_key=True, autoincrement=False)
    worker: Mapped[str] = mapped_column(Text)
    provenance: Mapped[dict[str, Any] | None]
    """`contracts.events.Started.provenance`: device, versions, hashes, threads."""
    started_at: Mapped[datetime] = mapped_column(server_default=func.now())
    ended_at: Mapped[datetime | None]
    outcome: Mapped[str | None] = mapped_column(Text)
    """How it ended: a terminal status, `paused`, `interrupted`, or null while it lasts."""
    lost: Mapped[bool] = mapped_column(default=False, server_default=false())
    """Whether its worker or process disappeared."""
    events_offset: Mapped[int] = mapped_column(BigInteger, default=0)
    """Bytes of `events.jsonl` already in rows; commits with them."""
    log_offset: Mapped[int] = mapped_column(BigInteger, default=0)
    """Bytes of the log already in log chunks; commits with them."""


class EventColumns:
    """A change of state, a checkpoint, a failure. Ids count up by one within a job."""

    if TYPE_CHECKING:
        job_id: Mapped[uuid.UUID]

    id: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)
    attempt: Mapped[int] = mapped_column(Integer)
    time: Mapped[datetime] = mapped_column(server_default=func.now())
    type: Mapped[str] = mapped_column(Text)
    data: Mapped[dict[str, Any]] = mapped_column(default=dict)


class LogColumns:
    """Bytes of an attempt's log from `offset` on, as printed: any encoding, any cut, no gap between chunks."""

    if TYPE_CHECKING:
        job_id: Mapped[uuid.UUID]

    attempt: Mapped[int] = mapped_column(Integer, primary_key=True, autoincrement=False)
    offset: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)
    data: Mapped[bytes] = mapped_column(LargeBinary)


class SupervisedJob(Job):
    """A job whose attempts, events and log are kept, in tables of its own kind."""

    ATTEMPTS: ClassVar[type[Any]]
    EVENTS: ClassVar[type[Any]]
    LOGS: ClassVar[type[Any]]

    resumed_attempt: Mapped[int] = mapped_column(Integer, default=0, server_default="0")
    """The newest attempt when it was last resumed: how that and those before it ended counts no more."""
    seconds_used: Mapped[float] = mapped_column(Double, default=0.0, server_default="0")
    """Seconds with a worker in the ended attempts since it was created or resumed."""
    last_event: Mapped[int] = mapped_column(BigInteger, default=0, server_default="0")
    """The newest id among its events; `service.db.events.record` counts it up."""
