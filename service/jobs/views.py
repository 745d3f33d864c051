"""What all jobs have in common on this side: how a job is shown, its place in the queue, cancelling it."""

import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from typing import TypeVar

from pydantic import AliasChoices, BaseModel, ConfigDict, Field
from sqlalchemy import func, select, tuple_
from sqlalchemy.orm import Session

from service.contracts.events import Progress
from service.contracts.status import CLAIMABLE, HELD, TERMINAL, JobStatus
from service.db.events import notify_job
from service.db.models import Evaluation, Generation, Run, Score
from service.http.errors import Deleted, NotFound

JobRow = TypeVar("JobRow", bound=Run | Generation | Evaluation | Score)


class JobFailure(BaseModel):
    """Why a job failed."""

    code: str = Field(description="A stable name for the kind of failure.")
    detail: str = Field(description="What happened.")
    hint: str = Field("", description="What to do about it.")
    log_tail: str = Field("", description="The last lines the child process printed.")


class JobView(BaseModel):
    """Where a job stands."""

    model_config = ConfigDict(from_attributes=True)

    id: uuid.UUID
    status: JobStatus
    priority: int = Field(description="Smaller is claimed earlier; equal ones by age.")
    created_at: datetime
    created_by: uuid.UUID | None = Field(description="The API key that asked for it; null where none was needed.")
    queued_at: datetime = Field(description="Since when it waits, or waited, for a worker.")
    started_at: datetime | None = Field(description="When a worker first took it.")
    ended_at: datetime | None
    attempt: int = Field(description="Times it has been taken by a worker.")
    losses: int = Field(description="Attempts lost in a row, with nothing saved in between.")
    worker: str | None = Field(
        validation_alias=AliasChoices("lease_owner", "worker"), description="The worker that holds it."
    )
    cancel_requested_at: datetime | None
    progress: Progress | None = Field(description="What the child process last reported.")
    error: JobFailure | None = Field(description="Why it failed, or paused by itself; null unless it did.")


def find(session: Session, model: type[JobRow], id: uuid.UUID, *, lock: bool = False) -> JobRow:
    """The job of that id. Raises NotFound."""
    # The lock is not against references to the row: a clone makes one while it holds locks on checkpoints.
    row = session.get(model, id, with_for_update={"key_share": True} if lock else None)
    if row is None:
        raise NotFound(f"there is no {model.KIND} {id}")
    return row


@contextmanager
def made_by_this_request(model: type[JobRow], id: uuid.UUID) -> Iterator[None]:
    """For showing the job that a request, or an identical one before it, made: NotFound within becomes Deleted."""
    try:
        yield
    except NotFound as error:
        detail = f"{model.KIND} {id}, which this request made, was deleted since"
        raise Deleted(f"{detail}; to make another, send it with a new Idempotency-Key, or without one") from error


def has_ended(session: Session, model: type[JobRow], id: uuid.UUID) -> bool:
    """Whether no more will happen to the job, for it has ended or is gone."""
    status = session.scalars(select(model.status).where(model.id == id)).one_or_none()
    return status is None or status in TERMINAL


def queue_position(session: Session, job: JobRow) -> int | None:
    """1 for the job that is claimed next; None for one that waits for nobody."""
    if job.status not in CLAIMABLE:
        return None
    model = type(job)
    place = tuple_(model.priority, model.created_at, model.id)
    before = select(func.count()).where(
        model.status.in_(CLAIMABLE), place < tuple_(job.priority, job.created_at, job.id)
    )
    return 1 + (session.scalar(before) or 0)


def cancel(session: Session, model: type[JobRow], id: uuid.UUID) -> tuple[JobRow, bool]:
    """Ask for the job's end, and say whether this changed anything.

    A job that no worker holds is cancelled at once; one that is held becomes `cancelling` and its worker ends it; one
    that has ended, or is being cancelled, stays as it is. The caller commits.
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
