"""Claiming jobs and writing to them. A write is refused unless the writer still holds the job's newest attempt."""

import time
import uuid
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, ClassVar

from sqlalchemy import ColumnElement, Select, func, literal, select, true
from sqlalchemy.orm import Session, defer

from service.contracts.status import CLAIMABLE, HELD, RESTING, JobStatus
from service.db import events
from service.db.models import Job, JobError, SupervisedJob
from service.db.session import Database

_STOPPING = {JobStatus.CANCELLING: JobStatus.CANCELLED, JobStatus.PAUSING: JobStatus.PAUSED}
"""Status of a job after a requested stop, also if its attempt ends for another reason, such as a lost worker."""


class LeaseLost(Exception):
    """The job belongs to a newer attempt or has ended. The caller stops without writing."""


class JobType:
    """How one kind of jobs is claimed and concluded, and what it stores. `worker.jobs.registry` lists the kinds.

    A kind derives from `SupervisedJobType` or `InProcessJobType`, which say how its jobs run.
    """

    model: ClassVar[type[Job]]
    artifact_pattern: ClassVar[str | None] = None
    """The artifacts that rows name, below `FOLDER/<id>/` in the store; `*` stands for any name. None: no such rows."""

    def claimable(self, devices: int | None) -> ColumnElement[bool]:
        """The condition on jobs that a worker with `devices` devices may claim; None stands for any number."""
        return true()

    def attempt_columns(self, row: Any) -> dict[str, Any]:
        """Values of additional columns of a new attempt."""
        return {}

    def checkpoint_request(self) -> ColumnElement[int]:
        """The number of the newest unanswered request for a checkpoint; 0: none."""
        return literal(0)

    def artifact_keys(self, id: uuid.UUID) -> Select[Any]:
        """The keys of the job's artifacts that rows name. Needed with an `artifact_pattern`."""
        raise NotImplementedError

    def conclude(self, session: Session, row: Any) -> None:
        """Compute results from the recorded rows, in the transaction that ends or pauses the job."""


@dataclass(frozen=True)
class Claim:
    """One attempt at one job, and its owner. `taken_at` is this machine's monotonic clock before the claim."""

    job_type: JobType
    id: uuid.UUID
    attempt: int
    owner: str
    taken_at: float

    @property
    def model(self) -> type[Job]:
        return self.job_type.model

    @property
    def kind(self) -> str:
        return self.model.KIND

    def lost(self) -> LeaseLost:
        """The error of a claim that is no longer valid."""
        return LeaseLost(f"attempt {self.attempt} of {self.kind} {self.id} no longer belongs to {self.owner}")


def claim_next(database: Database, job_type: JobType, owner: str, devices: int | None = None) -> Claim | None:
    """Claim the first claimable job by priority and age; None if there is none.

    Rows that another worker is claiming are skipped, so no two claims get the same job.
    """
    taken_at, job = time.monotonic(), job_type.model
    claimable = (
        select(job)
        .where(job.status.in_(CLAIMABLE), job_type.claimable(devices))
        .order_by(job.priority, job.created_at, job.id)
        .limit(1)
        .with_for_update(skip_locked=True)
    )
    with database.transaction() as session:
        row = session.scalars(claimable).first()
        if row is None:
            return None
        row.attempt += 1
        row.move_to(JobStatus.STARTING)
        row.lease_owner = owner
        row.lease_expires_at = _expiry(database)
        row.progress = None
        claim = Claim(job_type, row.id, row.attempt, owner, taken_at)
        if isinstance(row, SupervisedJob):
            columns = job_type.attempt_columns(row)
            session.add(row.ATTEMPTS(job_id=row.id, number=row.attempt, worker=owner, **columns))
        _record_status(session, row, owner)
    return claim


def held(session: Session, claim: Claim) -> Any:
    """The claimed job's row, locked until the transaction ends. Raises LeaseLost."""
    unused = [defer(claim.model.spec), defer(claim.model.requested)]
    # KEY SHARE: a clone may add a reference to the row while it holds locks that its parent's writer may need.
    lock = {"key_share": True}
    row = session.get(claim.model, claim.id, options=unused, with_for_update=lock, populate_existing=True)
    if row is None or row.attempt != claim.attempt or row.lease_owner != claim.owner or row.status not in HELD:
        raise claim.lost()
    return row


def renew(database: Database, claim: Claim) -> None:
    """Extend the lease, by the database's clock. Raises LeaseLost."""
    with database.transaction() as session:
        held(session, claim).lease_expires_at = _expiry(database)


def move(
    database: Database, claim: Claim, status: JobStatus, error: JobError | None = None, *, lost: bool = False
) -> None:
    """Bring the job to `status` and notify those who wait for it. Raises LeaseLost.

    Any status outside HELD ends the attempt and its lease. `lost`: the attempt counts as a loss.
    """
    with database.transaction() as session:
        move_held(session, claim, status, error, lost=lost)


def move_held(
    session: Session, claim: Claim, status: JobStatus, error: JobError | None = None, *, lost: bool = False
) -> None:
    """`move` within the caller's transaction."""
    row = held(session, claim)
    if row.status is status or (row.status in _STOPPING and status is JobStatus.RUNNING):
        return  # unchanged, or a stop was requested while the job was starting
    if status in (JobStatus.INTERRUPTED, JobStatus.PAUSED):
        status = _STOPPING.get(row.status, status)
    if status in (JobStatus.SUCCEEDED, JobStatus.PAUSED) and row.status is JobStatus.STARTING:
        row.move_to(JobStatus.RUNNING)  # it ended before its start was recorded
    _move_row(session, claim.job_type, row, status, error, lost=lost)


def end_lost_attempt(session: Session, job_type: JobType, row: Job) -> JobStatus:
    """End the attempt of a locked row whose worker is lost; the new status."""
    status = _STOPPING.get(row.status, JobStatus.INTERRUPTED)
    _move_row(session, job_type, row, status, lost=True, detail="the worker's lease expired")
    return status


def _move_row(
    session: Session,
    job_type: JobType,
    row: Job,
    status: JobStatus,
    error: JobError | None = None,
    *,
    lost: bool,
    **details: str,
) -> None:
    """Bring a locked row to `status`, conclude the job and end its attempt if `status` requires it, and notify."""
    if status in RESTING:
        job_type.conclude(session, row)
    owner = row.lease_owner
    row.move_to(status, error)
    row.losses += lost
    if isinstance(row, SupervisedJob) and status not in HELD:
        attempt: Any = session.get_one(row.ATTEMPTS, (row.id, row.attempt))
        attempt.ended_at, attempt.outcome, attempt.lost = func.now(), status, lost
        session.flush()
        row.seconds_used += (attempt.ended_at - attempt.started_at).total_seconds()
    _record_status(session, row, owner, **details)


def _record_status(session: Session, row: Job, owner: str | None, **details: str) -> None:
    """Notify of a change of status, and add it to the events of a job that has events."""
    session.flush()
    if isinstance(row, SupervisedJob):
        data = {"status": row.status.value, "worker": owner, **details}
        if row.error is not None and row.status in (JobStatus.FAILED, JobStatus.PAUSED):
            data |= {"code": row.error["code"], "detail": row.error["detail"]}
        events.record(session, type(row), row.id, row.attempt, "status", data)
    events.notify_job(session, row.KIND, row.id)


def _expiry(database: Database) -> ColumnElement[datetime]:
    return func.now() + timedelta(seconds=database.settings.lease_seconds)
