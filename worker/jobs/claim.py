"""Claiming jobs and writing to them. Writes require that the writer still holds the job's newest attempt."""

import time
import uuid
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, ClassVar

from sqlalchemy import ColumnElement, Select, func, literal, select, true
from sqlalchemy.orm import Session, defer

from service.contracts.status import CLAIMABLE, HELD, INACTIVE, JobStatus
from service.db import events
from service.db.models import Job, JobError, SupervisedJob
from service.db.session import Database

_STOPPING = {JobStatus.CANCELLING: JobStatus.CANCELLED, JobStatus.PAUSING: JobStatus.PAUSED}
"""Status of a job after a requested stop, even if its attempt ends for another reason, such as a lost worker."""


class LeaseLost(Exception):
    """The job belongs to a newer attempt or has ended. The caller must stop without writing."""


class JobType:
    """Base class of the job types, which define how jobs are claimed and concluded, and what they store.

    A job type derives from `SupervisedJobType` or `InProcessJobType`, which determine how its jobs run.
    `worker.jobs.registry` lists all job types.
    """

    model: ClassVar[type[Job]]
    artifact_pattern: ClassVar[str | None] = None
    """Pattern of the artifacts that rows refer to, below `FOLDER/<id>/` in the store. `*` matches any name.

    None if no rows refer to artifacts.
    """

    def claimable(self, devices: int | None) -> ColumnElement[bool]:
        """Return the SQL condition on jobs that a worker with `devices` devices may claim; None means no limit."""
        return true()

    def attempt_columns(self, row: Any) -> dict[str, Any]:
        """Return values for additional columns of a new attempt."""
        return {}

    def checkpoint_request(self) -> ColumnElement[int]:
        """Return the SQL expression for the number of the newest unanswered checkpoint request; 0 means none."""
        return literal(0)

    def artifact_keys(self, id: uuid.UUID) -> Select[Any]:
        """Return the query for the artifact keys that the job's rows refer to.

        Required if `artifact_pattern` is set.
        """
        raise NotImplementedError

    def conclude(self, session: Session, row: Any) -> None:
        """Compute the results from the recorded rows, within the transaction that ends or pauses the job."""


@dataclass(frozen=True)
class Claim:
    """A worker's claim to one attempt at a job. `taken_at` is this machine's monotonic time before the claim."""

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
        """Return the error to raise if the claim is no longer valid."""
        return LeaseLost(f"attempt {self.attempt} of {self.kind} {self.id} no longer belongs to {self.owner}")


def claim_next(database: Database, job_type: JobType, owner: str, devices: int | None = None) -> Claim | None:
    """Claim the first claimable job by priority and age. Returns None if there is no such job.

    Rows that another worker is claiming are skipped, so that no job is claimed twice.
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
    """Return the claimed job's row, locked until the transaction ends. Raises LeaseLost if the claim is not valid."""
    unused = [defer(claim.model.spec), defer(claim.model.requested)]
    # key_share: creating a clone adds a reference to this row while holding locks that this writer may need.
    lock = {"key_share": True}
    row = session.get(claim.model, claim.id, options=unused, with_for_update=lock, populate_existing=True)
    if row is None or row.attempt != claim.attempt or row.lease_owner != claim.owner or row.status not in HELD:
        raise claim.lost()
    return row


def renew(database: Database, claim: Claim) -> None:
    """Extend the lease, based on the database's clock. Raises LeaseLost if the claim is no longer valid."""
    with database.transaction() as session:
        held(session, claim).lease_expires_at = _expiry(database)


def move(
    database: Database, claim: Claim, status: JobStatus, error: JobError | None = None, *, lost: bool = False
) -> None:
    """Change the job's status and notify waiting clients. Raises LeaseLost if the claim is no longer valid.

    Any status that is not in HELD ends the attempt and its lease. `lost` means that the attempt counts as a loss.
    """
    with database.transaction() as session:
        move_held(session, claim, status, error, lost=lost)


def move_held(
    session: Session, claim: Claim, status: JobStatus, error: JobError | None = None, *, lost: bool = False
) -> None:
    """Change the job's status like `move`, but within the caller's transaction."""
    row = held(session, claim)
    if row.status is status or (row.status in _STOPPING and status is JobStatus.RUNNING):
        return  # unchanged, or a stop was requested while the job was starting
    if status in (JobStatus.INTERRUPTED, JobStatus.PAUSED):
        status = _STOPPING.get(row.status, status)
    if status in (JobStatus.SUCCEEDED, JobStatus.PAUSED) and row.status is JobStatus.STARTING:
        row.move_to(JobStatus.RUNNING)  # the job ended before its start was recorded
    _move_row(session, claim.job_type, row, status, error, lost=lost)


def end_lost_attempt(session: Session, job_type: JobType, row: Job) -> JobStatus:
    """End the attempt of a locked job whose worker is lost, and return the job's new status."""
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
    """Change the status of a locked row and notify clients.

    Depending on `status`, conclude the job and end its attempt.
    """
    if status in INACTIVE:
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
    """Send a notification of a status change, and record it in the job's events if the job type has events."""
    session.flush()
    if isinstance(row, SupervisedJob):
        data = {"status": row.status.value, "worker": owner, **details}
        if row.error is not None and row.status in (JobStatus.FAILED, JobStatus.PAUSED):
            data |= {"code": row.error["code"], "detail": row.error["detail"]}
        events.record(session, type(row), row.id, row.attempt, "status", data)
    events.notify_job(session, row.KIND, row.id)


def _expiry(database: Database) -> ColumnElement[datetime]:
    return func.now() + timedelta(seconds=database.settings.lease_seconds)
