"""Response models and operations shared by all kinds of jobs: lookup, queue position and cancellation."""

import uuid
from datetime import datetime
from typing import TypeVar

from pydantic import AliasChoices, BaseModel, Field
from sqlalchemy import func, select, tuple_
from sqlalchemy.orm import Session

from service.contracts.base import Moment
from service.contracts.events import Progress
from service.contracts.status import CLAIMABLE, TERMINAL, JobStatus
from service.db.models import Job, SupervisedJob
from service.http.errors import NotFound
from service.http.pagination import PageQuery, RowView

JobRow = TypeVar("JobRow", bound=Job)
View = TypeVar("View", bound=BaseModel)


class JobFailure(BaseModel):
    """The reason why a job failed."""

    code: str = Field(description="Stable identifier of the cause.")
    detail: str = Field(description="What happened.")
    hint: str = Field("", description="How to fix the problem.")
    log_tail: str = Field("", description="The last lines of the process log.")


class JobView(RowView):
    """The state of a job."""

    id: uuid.UUID
    status: JobStatus
    priority: int = Field(
        description="Jobs with a smaller number are claimed first; among equal numbers, the oldest job."
    )
    created_at: datetime
    created_by: uuid.UUID | None = Field(
        description="Id of the API key that created the job; null if no key was required."
    )
    queued_at: datetime = Field(description="When the job last entered the queue.")
    started_at: datetime | None = Field(description="When a worker first claimed the job.")
    ended_at: datetime | None
    attempt: int = Field(description="Number of times a worker has claimed the job.")
    losses: int = Field(description="Number of consecutive attempts that were lost before saving any progress.")
    worker: str | None = Field(
        validation_alias=AliasChoices("lease_owner", "worker"), description="The worker that holds the job."
    )
    cancel_requested_at: datetime | None
    progress: Progress | None = Field(description="The last reported progress.")
    error: JobFailure | None = Field(description="Why the job failed or was paused automatically; null otherwise.")


class JobFilters(PageQuery):
    """Query parameters of all job lists. A job must match all filters and, if any are given, one of the statuses."""

    status: list[JobStatus] = Field([], max_length=len(JobStatus), description="Statuses to include; by default, all.")
    created_after: Moment | None = Field(None, description="Created at or after this time.")
    created_before: Moment | None = Field(None, description="Created before this time.")


class _Overlay:
    """The attributes of a row, with some values replaced or added."""

    def __init__(self, row: object, values: dict[str, object]) -> None:
        self._row = row
        self.__dict__.update(values)

    def __getattr__(self, name: str) -> object:
        return getattr(self._row, name)


def from_row(view: type[View], row: object, **computed: object) -> View:
    """Create a view of a row. Each field is taken from `computed` or from the row attribute with the same name."""
    return view.model_validate(_Overlay(row, computed), from_attributes=True)


def find(session: Session, model: type[JobRow], id: uuid.UUID, *, lock: bool = False) -> JobRow:
    """Return the job with the given id, locked if `lock` is set. Raises NotFound if it does not exist."""
    # Use KEY SHARE, because a clone may add a reference to the row while it holds locks on checkpoints.
    row = session.get(model, id, with_for_update={"key_share": True} if lock else None)
    if row is None:
        raise NotFound(f"{model.KIND.capitalize()} {id} not found")
    return row


def has_ended(session: Session, model: type[JobRow], id: uuid.UUID) -> bool:
    """Whether the job has ended or was deleted."""
    status = session.scalars(select(model.status).where(model.id == id)).one_or_none()
    return status is None or status in TERMINAL


def queue_position(session: Session, job: JobRow) -> int | None:
    """Return the queue position, 1 for the job that is claimed next, or None if the job is not waiting."""
    if job.status not in CLAIMABLE:
        return None
    model = type(job)
    order = tuple_(model.priority, model.created_at, model.id)
    before = select(func.count()).where(
        model.status.in_(CLAIMABLE), order < tuple_(job.priority, job.created_at, job.id)
    )
    return 1 + (session.scalar(before) or 0)


def eta_seconds(job: SupervisedJob) -> float | None:
    """Return the estimated remaining seconds, or None if the job is not running or no step has been timed yet."""
    return (job.progress or {}).get("eta_seconds") if job.status is JobStatus.RUNNING else None
