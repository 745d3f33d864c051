"""The columns and status checks shared by all jobs, and the columns for the records of supervised jobs."""

import uuid
from datetime import datetime
from typing import TYPE_CHECKING, Any, ClassVar, TypedDict

from sqlalchemy import Enum, ForeignKey, Index, TextClause, false, func, text
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import Mapped, mapped_column, validates

from service.contracts.status import CLAIMABLE, HELD, TERMINAL, JobStatus, check_move
from service.db.base import BigInt, CreatedAt, new_id


class JobError(TypedDict):
    """The reason why a job failed, as shown to users."""

    code: str
    detail: str
    hint: str
    log_tail: str


def job_indexes(table: str) -> tuple[Index, ...]:
    """Create the indexes of a job table, which find claimable jobs, expired leases and a key's unfinished jobs.

    The indexes are partial, because finished jobs accumulate.
    """
    return (
        Index(f"ix_{table}_claimable", "priority", "created_at", "id", postgresql_where=_status_in(CLAIMABLE)),
        Index(f"ix_{table}_held", "lease_expires_at", postgresql_where=_status_in(HELD)),
        Index(f"ix_{table}_open", "created_by", postgresql_where=_status_in(TERMINAL, "NOT IN")),
    )


def _status_in(states: frozenset[JobStatus], operator: str = "IN") -> TextClause:
    return text(f"status {operator} ({', '.join(repr(state.value) for state in sorted(states))})")


class Job:
    """A job, which a worker claims, holds under a lease, and ends.

    Assigning `status` raises ValueError if `contracts.status` does not allow the transition. `move_to` also updates the
    times and the lease. Jobs are claimed in ascending order of `priority`, then `created_at`.
    """

    KIND: ClassVar[str]
    """Name of this kind of job in errors, events and notifications."""
    QUEUE: ClassVar[str]
    """Message queue of the workers that run jobs of this kind."""
    FOLDER: ClassVar[str]
    """Prefix of the jobs' artifact keys, and name of their directory on a worker's machine."""

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
    """The API key of the request, or null if no key is required."""
    queued_at: Mapped[CreatedAt]
    """When the job last started to wait for a worker."""
    started_at: Mapped[datetime | None]
    ended_at: Mapped[datetime | None]
    attempt: Mapped[int] = mapped_column(default=0)
    """Number of times the job has been claimed. Only the attempt with this number may write."""
    losses: Mapped[int] = mapped_column(default=0, server_default="0")
    """Number of consecutive attempts lost without a checkpoint. An orderly stop does not count as a loss."""
    lease_owner: Mapped[str | None]
    lease_expires_at: Mapped[datetime | None]
    cancel_requested_at: Mapped[datetime | None]
    requested: Mapped[dict[str, Any]]
    """The request body, with uploaded files replaced by their SHA-256."""
    spec: Mapped[dict[str, Any]]
    """The job's resolved spec as JSON. It never changes, and is not validated when it is read."""
    spec_version: Mapped[int]
    progress: Mapped[dict[str, Any] | None]
    """The latest `contracts.events.Progress` as JSON."""
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
        """Set the status, and set the times from the database's clock. Release the lease unless `new` requires it."""
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
    """The worker, provenance and outcome of an attempt, and the parts of its files that are already in the database."""

    if TYPE_CHECKING:
        job_id: Mapped[uuid.UUID]

    number: Mapped[int] = mapped_column(primary_key=True)
    worker: Mapped[str]
    provenance: Mapped[dict[str, Any] | None]
    """The `contracts.events.Started.provenance`: devices, versions, hashes and threads."""
    started_at: Mapped[CreatedAt]
    ended_at: Mapped[datetime | None]
    outcome: Mapped[str | None]
    """A terminal status, `paused` or `interrupted`, or null until the attempt ends."""
    lost: Mapped[bool] = mapped_column(default=False, server_default=false())
    """Whether the worker or process of the attempt disappeared."""
    events_offset: Mapped[BigInt] = mapped_column(default=0)
    """Number of bytes of `events.jsonl` already stored as rows. It is committed together with these rows."""
    log_offset: Mapped[BigInt] = mapped_column(default=0)
    """Number of bytes of the log already stored as log chunks. It is committed together with these chunks."""


class EventColumns:
    """An event such as a status change, a checkpoint or a failure. Ids are consecutive within a job."""

    if TYPE_CHECKING:
        job_id: Mapped[uuid.UUID]

    id: Mapped[BigInt] = mapped_column(primary_key=True)
    attempt: Mapped[int]
    time: Mapped[CreatedAt]
    type: Mapped[str]
    data: Mapped[dict[str, Any]] = mapped_column(default=dict)


class LogColumns:
    """A chunk of an attempt's log that starts at byte `offset`. Chunks contain the raw output, without gaps."""

    if TYPE_CHECKING:
        job_id: Mapped[uuid.UUID]

    attempt: Mapped[int] = mapped_column(primary_key=True)
    offset: Mapped[BigInt] = mapped_column(primary_key=True)
    data: Mapped[bytes]


class SupervisedJob(Job):
    """A job whose attempts, events and log are recorded in separate tables for each kind of job."""

    ATTEMPTS: ClassVar[type[Any]]
    EVENTS: ClassVar[type[Any]]
    LOGS: ClassVar[type[Any]]

    resumed_attempt: Mapped[int] = mapped_column(default=0, server_default="0")
    """The newest attempt when the job was last resumed. Outcomes of attempts up to this one are ignored."""
    seconds_used: Mapped[float] = mapped_column(default=0.0, server_default="0")
    """Seconds that ended attempts have spent with a worker since the job was created or resumed."""
    last_event: Mapped[BigInt] = mapped_column(default=0, server_default="0")
    """Id of the job's newest event, which `service.db.events.record` increments."""
