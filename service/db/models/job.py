"""The columns that every job has, the guard on its status, and the columns of what a supervised job records."""

import uuid
from datetime import datetime
from typing import TYPE_CHECKING, Any, ClassVar, TypedDict

from sqlalchemy import Enum, ForeignKey, Index, TextClause, false, func, text
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import Mapped, mapped_column, validates

from service.contracts.status import CLAIMABLE, HELD, TERMINAL, JobStatus, check_move
from service.db.base import BigInt, CreatedAt, new_id


class JobError(TypedDict):
    """Why a job failed, for users."""

    code: str
    detail: str
    hint: str
    log_tail: str


def job_indexes(table: str) -> tuple[Index, ...]:
    """The indexes of a table of jobs: the next to claim, leases that may have expired, unfinished jobs of a key.

    They are partial, because finished jobs accumulate.
    """
    return (
        Index(f"ix_{table}_claimable", "priority", "created_at", "id", postgresql_where=_status_in(CLAIMABLE)),
        Index(f"ix_{table}_held", "lease_expires_at", postgresql_where=_status_in(HELD)),
        Index(f"ix_{table}_open", "created_by", postgresql_where=_status_in(TERMINAL, "NOT IN")),
    )


def _status_in(states: frozenset[JobStatus], operator: str = "IN") -> TextClause:
    return text(f"status {operator} ({', '.join(repr(state.value) for state in sorted(states))})")


class Job:
    """A row that a worker claims, holds by a lease, and ends.

    Writers set `status` by attribute: a transition that `contracts.status` does not allow raises ValueError. `move_to`
    also updates the times and the lease. Claims are ordered by `priority`, then `created_at`; smaller is earlier.
    """

    KIND: ClassVar[str]
    """Name of a job in errors, events and notices."""
    QUEUE: ClassVar[str]
    """Message queue of the workers that run these jobs."""
    FOLDER: ClassVar[str]
    """Prefix of the keys of their artifacts, and name of their directory on a worker's machine."""

    id: Mapped[uuid.UUID] = mapped_column(primary_key=True, default=new_id)
    status: Mapped[JobStatus] = mapped_column(
        Enum(
            JobStatus,
            name="status",
            native_enum=False,
            create_constraint=True,
            length=16,
            values_callable=lambda states: [state.value for state in states],
        ),
        default=JobStatus.QUEUED,
    )
    priority: Mapped[int] = mapped_column(default=0)
    created_at: Mapped[CreatedAt]
    created_by: Mapped[uuid.UUID | None] = mapped_column(ForeignKey("api_keys.id"), index=True)
    """The API key of the request; null where no key is required."""
    queued_at: Mapped[CreatedAt]
    """When it last started to wait for a worker."""
    started_at: Mapped[datetime | None]
    ended_at: Mapped[datetime | None]
    attempt: Mapped[int] = mapped_column(default=0)
    """Number of claims, and the number of the attempt that may write."""
    losses: Mapped[int] = mapped_column(default=0, server_default="0")
    """Consecutive lost attempts without a checkpoint; an orderly stop is not a loss."""
    lease_owner: Mapped[str | None]
    lease_expires_at: Mapped[datetime | None]
    cancel_requested_at: Mapped[datetime | None]
    requested: Mapped[dict[str, Any]]
    """The request's body; uploaded files are replaced by their SHA-256."""
    spec: Mapped[dict[str, Any]]
    """The resolved specification of the kind, as JSON. It never changes, and reads do not validate it."""
    spec_version: Mapped[int]
    progress: Mapped[dict[str, Any] | None]
    """The last `contracts.events.Progress`, as JSON."""
    error: Mapped[JobError | None] = mapped_column(JSONB(none_as_null=True))

    @validates("status")
    def _check_status(self, _key: str, new: JobStatus) -> JobStatus:
        if self.status is None:
            if new is not JobStatus.QUEUED:
                raise ValueError(f"The first status of a job must be queued, not {new}")
        elif new is not self.status:
            check_move(self.status, new)
        return new

    def move_to(self, new: JobStatus, error: JobError | None = None) -> None:
        """Set the status and, by the database's clock, the times; release the lease unless `new` holds one."""
        self.status = new
        if error is not None:
            self.error = error
        if new is JobStatus.STARTING and self.started_at is None:
            self.started_at = func.now()
        if new in CLAIMABLE:
            self.queued_at = func.now()
            self.ended_at = None
        if new in TERMINAL:
            self.ended_at = func.now()
        if new not in HELD:
            self.lease_owner = None
            self.lease_expires_at = None


class AttemptColumns:
    """Worker, provenance and outcome of an attempt, and the parts of its files that are already in rows."""

    if TYPE_CHECKING:
        job_id: Mapped[uuid.UUID]

    number: Mapped[int] = mapped_column(primary_key=True)
    worker: Mapped[str]
    provenance: Mapped[dict[str, Any] | None]
    """`contracts.events.Started.provenance`: devices, versions, hashes, threads."""
    started_at: Mapped[CreatedAt]
    ended_at: Mapped[datetime | None]
    outcome: Mapped[str | None]
    """A terminal status, `paused`, `interrupted`, or null before it ends."""
    lost: Mapped[bool] = mapped_column(default=False, server_default=false())
    """Whether its worker or process disappeared."""
    events_offset: Mapped[BigInt] = mapped_column(default=0)
    """Bytes of `events.jsonl` already in rows; committed together with them."""
    log_offset: Mapped[BigInt] = mapped_column(default=0)
    """Bytes of the log already in log chunks; committed together with them."""


class EventColumns:
    """A status change, a checkpoint, a failure. Ids are consecutive within a job."""

    if TYPE_CHECKING:
        job_id: Mapped[uuid.UUID]

    id: Mapped[BigInt] = mapped_column(primary_key=True)
    attempt: Mapped[int]
    time: Mapped[CreatedAt]
    type: Mapped[str]
    data: Mapped[dict[str, Any]] = mapped_column(default=dict)


class LogColumns:
    """Bytes of an attempt's log from `offset`, as printed: any encoding, no gap between chunks."""

    if TYPE_CHECKING:
        job_id: Mapped[uuid.UUID]

    attempt: Mapped[int] = mapped_column(primary_key=True)
    offset: Mapped[BigInt] = mapped_column(primary_key=True)
    data: Mapped[bytes]


class SupervisedJob(Job):
    """A job that records attempts, events and a log, in tables of its kind."""

    ATTEMPTS: ClassVar[type[Any]]
    EVENTS: ClassVar[type[Any]]
    LOGS: ClassVar[type[Any]]

    resumed_attempt: Mapped[int] = mapped_column(default=0, server_default="0")
    """The newest attempt at the last resume; the outcomes of attempts up to it are ignored."""
    seconds_used: Mapped[float] = mapped_column(default=0.0, server_default="0")
    """Seconds with a worker in the ended attempts since it was created or resumed."""
    last_event: Mapped[BigInt] = mapped_column(default=0, server_default="0")
    """The newest id among its events; `service.db.events.record` increments it."""
