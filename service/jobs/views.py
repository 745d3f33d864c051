"""Views and operations of all kinds of jobs: response fields, lookup, queue position, cancellation."""

import uuid
from datetime import datetime
from typing import TypeVar

from pydantic import AliasChoices, BaseModel, ConfigDict, Field
from sqlalchemy import func, select, tuple_
from sqlalchemy.orm import Session

from service.contracts.base import Moment
from service.contracts.events import Progress
from service.contracts.status import CLAIMABLE, HELD, TERMINAL, JobStatus
from service.db.events import notify_job
from service.db.models import Job, SupervisedJob
from service.http.errors import NotFound
from service.http.pagination import PageQuery

JobRow = TypeVar("JobRow", bound=Job)
View = TypeVar("View", bound=BaseModel)


class JobFailure(BaseModel):
    """Why a job failed."""

    code: str = Field(description="Stable identifier of the cause.")
    detail: str = Field(description="What happened.")
    hint: str = Field("", description="How to fix it.")
    log_tail: str = Field("", description="The last lines of the process's log.")


class JobView(BaseModel):
    """The state of a job."""

    model_config = ConfigDict(from_attributes=True)

    id: uuid.UUID
    status: JobStatus
    priority: int = Field(description="Jobs with a smaller number are claimed first; among equals the oldest.")
    created_at: datetime
    created_by: uuid.UUID | None = Field(description="The API key that created it; null if the service requires none.")
    queued_at: datetime = Field(description="When it last entered the queue.")
    started_at: datetime | None = Field(description="When a worker first claimed it.")
    ended_at: datetime | None
    attempt: int = Field(description="Number of times a worker has claimed it.")
    losses: int = Field(description="Consecutive attempts that were lost without saving anything.")
    worker: str | None = Field(
        validation_alias=AliasChoices("lease_owner", "worker"), description="The worker that holds it."
    )
    cancel_requested_at: datetime | None
    progress: Progress | None = Field(description="Last reported progress.")
    error: JobFailure | None = Field(description="Why it failed or paused automatically; otherwise null.")


class JobFilters(PageQuery):
    """The filters of every list of jobs; several statuses are alternatives, all other filters must hold."""

    status: list[JobStatus] = Field([], max_length=len(JobStatus), description="One of these statuses.")
    created_after: Moment | None = Field(None, description="Created at or after this time.")
    created_before: Moment | None = Field(None, description="Created before this time.")


class _Overlay:
    """A row's attributes, with some values replaced or added."""

    def __init__(self, row: object, values: dict[str, object]) -> None:
        self._row = row
        self.__dict__.update(values)

    def __getattr__(self, name: str) -> object:
        return getattr(self._row, name)


def from_row(view: type[View], row: object, **computed: object) -> View:
    """The view of a row: each field is a computed value or the row's attribute of that name."""
    return view.model_validate(_Overlay(row, computed), from_attributes=True)


def find(session: Session, model: type[JobRow], id: uuid.UUID, *, lock: bool = False) -> JobRow:
    """The job of that id. Raises NotFound."""
    # KEY SHARE: a clone may add a reference to the row while it holds locks on checkpoints.
    row = session.get(model, id, with_for_update={"key_share": True} if lock else None)
    if row is None:
        raise NotFound(f"There is no {model.KIND} {id}")
    return row


def has_ended(session: Session, model: type[JobRow], id: uuid.UUID) -> bool:
    """Whether the job has ended or was deleted."""
    status = session.scalars(select(model.status).where(model.id == id)).one_or_none()
    return status is None or status in TERMINAL


def queue_position(session: Session, job: JobRow) -> int | None:
    """1 for the job that is claimed next; None for a job that is not waiting."""
    if job.status not in CLAIMABLE:
        return None
    model = type(job)
    order = tuple_(model.priority, model.created_at, model.id)
    before = select(func.count()).where(
        model.status.in_(CLAIMABLE), order < tuple_(job.priority, job.created_at, job.id)
    )
    return 1 + (session.scalar(before) or 0)


def eta_seconds(job: SupervisedJob) -> float | None:
    """Estimated seconds to the end of a running job; None for other states, and until a step has been timed."""
    return (job.progress or {}).get("eta_seconds") if job.status is JobStatus.RUNNING else None


def cancel(session: Session, model: type[JobRow], id: uuid.UUID) -> tuple[JobRow, bool]:
    """Cancel a job; the row, and whether it changed. The caller commits.

    A job without a worker is cancelled immediately. A running job becomes `cancelling`, and its worker stops it. A job
    that has ended or is being cancelled does not change.
    """
    job = find(session, model, id, lock=True)
    if job.status in TERMINAL or job.status is JobStatus.CANCELLING:
        return job, False
    job.cancel_requested_at = func.now()
    job.move_to(JobStatus.CANCELLING if job.status in HELD else JobStatus.CANCELLED)
    notify_job(session, model.KIND, id)
    session.flush()
    session.refresh(job)
    return job, True
