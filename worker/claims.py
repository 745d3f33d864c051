"""Taking jobs and writing to them: every write is refused unless the writer still holds the job's newest attempt."""

import time
import uuid
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TypeAlias, cast

from sqlalchemy import ColumnElement, func, select
from sqlalchemy.orm import Session, defer

from service.contracts.status import CLAIMABLE, HELD, JobStatus
from service.db import events
from service.db.models import Attempt, Generation, JobError, Run
from service.db.session import Database

JobRow: TypeAlias = Run | Generation
JobType: TypeAlias = type[Run] | type[Generation]


class LeaseLost(Exception):
    """The job belongs to another attempt by now, or has ended: whoever gets this stops and writes nothing more."""


@dataclass(frozen=True)
class Claim:
    """One attempt at one job, and who holds it. `taken_at` is this machine's monotonic clock before the claim."""

    job: JobType
    id: uuid.UUID
    attempt: int
    owner: str
    taken_at: float


def claim_next(database: Database, job: JobType, owner: str) -> Claim | None:
    """Take the first claimable job by priority and age; None when there is none.

    Rows that another worker is just taking are skipped, so no two claims get the same job.
    """
    taken_at = time.monotonic()
    with database.transaction() as session:
        oldest_first = (job.priority, job.created_at, job.id)
        claimable = select(job).where(job.status.in_(CLAIMABLE)).order_by(*oldest_first).limit(1)
        row = cast("JobRow | None", session.scalars(claimable.with_for_update(skip_locked=True)).first())
        if row is None:
            return None
        row.attempt += 1
        row.move_to(JobStatus.STARTING)
        row.lease_owner = owner
        row.lease_expires_at = _expiry(database)
        row.progress = None
        claim = Claim(job, row.id, row.attempt, owner, taken_at)
        if isinstance(row, Run):
            session.add(Attempt(run_id=row.id, number=row.attempt, worker=owner, max_steps=row.max_steps))
            session.flush()
            record_status(session, row, claim)
        else:
            events.notify_job(session, row.KIND, row.id)
    return claim


def held(session: Session, claim: Claim) -> JobRow:
    """The claimed job's row, locked until the transaction ends. Raises LeaseLost."""
    light = [defer(claim.job.spec), defer(claim.job.requested)]
    found = session.get(claim.job, claim.id, options=light, with_for_update=True, populate_existing=True)
    row = cast("JobRow | None", found)
    if row is None or row.attempt != claim.attempt or row.lease_owner != claim.owner or row.status not in HELD:
        raise LeaseLost(f"attempt {claim.attempt} of {claim.job.KIND} {claim.id} is no longer {claim.owner}'s")
    return row


def renew(database: Database, claim: Claim) -> None:
    """Put the lease's end off, by the database's clock. Raises LeaseLost."""
    with database.transaction() as session:
        held(session, claim).lease_expires_at = _expiry(database)


def move(database: Database, claim: Claim, status: JobStatus, error: JobError | None = None) -> None:
    """Bring the job to `status` and tell those who wait for it. Raises LeaseLost.

    Terminal and interrupted jobs give up their lease: this is the attempt's last word.
    """
    with database.transaction() as session:
        move_held(session, claim, status, error)


def move_held(session: Session, claim: Claim, status: JobStatus, error: JobError | None = None) -> None:
    """`move` as a part of the caller's transaction."""
    row = held(session, claim)
    if row.status is status or (row.status, status) == (JobStatus.CANCELLING, JobStatus.RUNNING):
        return  # there already, or asked to end while it was starting
    if status is JobStatus.INTERRUPTED and row.status is JobStatus.CANCELLING:
        status = JobStatus.CANCELLED  # who asked for the end does not want it taken up again
    if status is JobStatus.SUCCEEDED and row.status is JobStatus.STARTING:
        row.move_to(JobStatus.RUNNING)  # it ended before anybody saw it run
    row.move_to(status, error)
    if isinstance(row, Run):
        record_status(session, row, claim)
        if status not in HELD:
            attempt = session.get_one(Attempt, (row.id, claim.attempt))
            attempt.ended_at = func.now()
            attempt.outcome = status
    else:
        events.notify_job(session, row.KIND, row.id)


def cancel_requested(database: Database, claim: Claim) -> bool:
    """Whether somebody asked for the job's end. Raises LeaseLost."""
    job = claim.job
    with database.transaction() as session:
        found = session.execute(
            select(job.attempt, job.status, job.cancel_requested_at).where(job.id == claim.id)
        ).one_or_none()
    if found is None or found.attempt != claim.attempt or found.status not in HELD:
        raise LeaseLost(f"attempt {claim.attempt} of {job.KIND} {claim.id} is no longer {claim.owner}'s")
    return found.cancel_requested_at is not None or found.status is JobStatus.CANCELLING


def record_status(session: Session, run: Run, claim: Claim) -> None:
    """Add a change of state to the run's events, and notify."""
    data = {"status": run.status.value, "worker": claim.owner}
    if run.error is not None and run.status is JobStatus.FAILED:
        data |= {"code": run.error["code"], "detail": run.error["detail"]}
    events.record(session, run.id, claim.attempt, "status", data)
    events.notify_job(session, run.KIND, run.id)


def _expiry(database: Database) -> ColumnElement[datetime]:
    return func.now() + timedelta(seconds=database.settings.lease_seconds)
