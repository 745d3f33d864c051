"""Columns of all kinds of jobs, and the check of status changes."""

import uuid
from datetime import datetime
from typing import Any, ClassVar, TypedDict

from sqlalchemy import Enum, ForeignKey, Index, Integer, Text, TextClause, func, text
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import Mapped, mapped_column, validates

from service.contracts.status import CLAIMABLE, HELD, TERMINAL, JobStatus, check_move
from service.db.base import new_id


class JobError(TypedDict):
    """Why a job failed, for users."""

    code: str
    detail: str
    hint: str
    log_tail: str


def job_indexes(table: str) -> tuple[Index, ...]:
    """What every table of jobs is searched by: the next to claim, leases that may have run out, and jobs that have not
    ended: few, among ever more that have."""
    return (
        Index(f"ix_{table}_claimable", "priority", "created_at", "id", postgresql_where=_status_in(CLAIMABLE)),
        Index(f"ix_{table}_held", "lease_expires_at", postgresql_where=_status_in(HELD)),
        Index(f"ix_{table}_open", "created_by", postgresql_where=_status_in(TERMINAL, "NOT IN")),
    )


def _status_in(states: frozenset[JobStatus], operator: str = "IN") -> TextClause:
    return text(f"status {operator} ({', '.join(repr(state.value) for state in sorted(states))})")


class Job:
    """A row that a worker claims, holds by a lease, and ends.

    Writers set `status` by attribute: a move that `contracts.status` does not allow raises ValueError. `move_to` also
    keeps the times and the lease in step. Claims go by `priority`, then `created_at`; smaller is earlier.
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
    priority: Mapped[int] = mapped_column(Integer, default=0)
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())
    created_by: Mapped[uuid.UUID | None] = mapped_column(ForeignKey("api_keys.id"), index=True)
    """The API key that created it; null if the service requires none."""
    queued_at: Mapped[datetime] = mapped_column(server_default=func.now())
    """When it last entered the queue."""
    started_at: Mapped[datetime | None]
    ended_at: Mapped[datetime | None]
    attempt: Mapped[int] = mapped_column(Integer, default=0)
    """Number of claims; also the number of the attempt that may write."""
    losses: Mapped[int] = mapped_column(Integer, default=0, server_default="0")
    """Consecutive lost attempts without a checkpoint in between; an orderly stop is not a loss."""
    lease_owner: Mapped[str | None] = mapped_column(Text)
    lease_expires_at: Mapped[datetime | None]
    cancel_requested_at: Mapped[datetime | None]
    requested: Mapped[dict[str, Any]]
    """The request's body; uploaded files are replaced by their SHA-256."""
    spec: Mapped[dict[str, Any]]
    """The resolved specification of the kind, as JSON. It never changes, and reads do not validate it."""
    spec_version: Mapped[int] = mapped_column(Integer)
    progress: Mapped[dict[str, Any] | None]
    """The last `contracts.events.Progress`, as JSON."""
    error: Mapped[JobError | None] = mapped_column(JSONB(none_as_null=True))

    @validates("status")
    def _guard(self, _key: str, new: JobStatus) -> JobStatus:
        if self.status is None:
            if new is not JobStatus.QUEUED:
                raise ValueError(f"a new job must be queued, not {new}")
        elif new is not self.status:
            check_move(self.status, new)
        return new

    def move_to(self, new: JobStatus, error: JobError | None = None) -> None:
        """Change the status to `new`, with the times by the database's clock; a status outside HELD ends the lease."""
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
