"""Taking jobs and writing to them: every write is refused unless the writer still holds the job's newest attempt."""

import time
import uuid
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Literal, TypeAlias, cast

from sqlalchemy import ColumnElement, case, func, literal, select
from sqlalchemy.orm import Session, defer

from service.contracts.status import CLAIMABLE, HELD, JobStatus
from service.db import evaluation_scores, events
from service.db.models import Evaluation, Generation, JobError, Run, Score, SupervisedJob
from service.db.session import Database

JobRow: TypeAlias = Run | Generation | Evaluation | Score
JobType: TypeAlias = type[Run] | type[Generation] | type[Evaluation] | type[Score]


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


def claim_next(database: Database, job: JobType, owner: str, devices: int | None = None) -> Claim | None:
    """Take the first claimable job by priority and age; None when there is none.

    Of runs, only those whose processes can have one of so many `devices` each. Rows that another worker is just taking
    are skipped, so no two claims get the same job.
    """
    taken_at = time.monotonic()
    with database.transaction() as session:
        oldest_first = (job.priority, job.created_at, job.id)
        claimable = select(job).where(job.status.in_(CLAIMABLE)).order_by(*oldest_first).limit(1)
        if job is Run and devices is not None:
            processes = Run.spec["resources", "processes_per_node"].as_integer()
            claimable = claimable.where(func.coalesce(processes, 1) <= devices)
        row = cast("JobRow | None", session.scalars(claimable.with_for_update(skip_locked=True)).first())
        if row is None:
            return None
        row.attempt += 1
        row.move_to(JobStatus.STARTING)
        row.lease_owner = owner
        row.lease_expires_at = _expiry(database)
        row.progress = None
        claim = Claim(job, row.id, row.attempt, owner, taken_at)
        if isinstance(row, SupervisedJob):
            attempt = {"max_steps": row.max_steps} if isinstance(row, Run) else {}
            session.add(row.ATTEMPTS(job_id=row.id, number=row.attempt, worker=owner, **attempt))
            session.flush()
            record_status(session, row, owner)
        else:
            events.notify_job(session, row.KIND, row.id)
    return claim


def held(session: Session, claim: Claim) -> JobRow:
    """The claimed job's row, locked until the transaction ends. Raises LeaseLost."""
    light = [defer(claim.job.spec), defer(claim.job.requested)]
    # Not against references to the row, which a clone makes while it holds locks that its parent's writer may want.
    lock = {"key_share": True}
    found = session.get(claim.job, claim.id, options=light, with_for_update=lock, populate_existing=True)
    row = cast("JobRow | None", found)
    if row is None or row.attempt != claim.attempt or row.lease_owner != claim.owner or row.status not in HELD:
        raise LeaseLost(f"attempt {claim.attempt} of {claim.job.KIND} {claim.id} is no longer {claim.owner}'s")
    return row


def renew(database: Database, claim: Claim) -> None:
    """Put the lease's end off, by the database's clock. Raises LeaseLost."""
    with database.transaction() as session:
        held(session, claim).lease_expires_at = _expiry(database)


def move(
    database: Database, claim: Claim, status: JobStatus, error: JobError | None = None, *, lost: bool = False
) -> None:
    """Bring the job to `status` and tell those who wait for it. Raises LeaseLost.

    Resting and interrupted jobs give up their lease: this is the attempt's last word. `lost`: it is no orderly one.
    """
    with database.transaction() as session:
        move_held(session, claim, status, error, lost=lost)


def move_held(
    session: Session, claim: Claim, status: JobStatus, error: JobError | None = None, *, lost: bool = False
) -> None:
    """`move` as a part of the caller's transaction."""
    row = held(session, claim)
    if row.status is status or (row.status in _LEAVING and status is JobStatus.RUNNING):
        return  # there already, or asked to end while it was starting
    if status in (JobStatus.INTERRUPTED, JobStatus.PAUSED):
        status = _asked_end(session, row, status)
    if status in (JobStatus.SUCCEEDED, JobStatus.PAUSED) and row.status is JobStatus.STARTING:
        row.move_to(JobStatus.RUNNING)  # it ended before anybody saw it run
    leave(session, row, status, error, lost=lost)


_LEAVING = {JobStatus.CANCELLING: JobStatus.CANCELLED, JobStatus.PAUSING: JobStatus.PAUSED}
"""What becomes of a job that was asked to stop and whose attempt ends for another reason, such as a lost worker."""


def give_up(session: Session, row: JobRow) -> JobStatus:
    """End the attempt of a job whose worker is lost; the status it got."""
    status = _asked_end(session, row, JobStatus.INTERRUPTED)
    leave(session, row, status, lost=True, detail="the worker's lease ran out")
    return status


def _asked_end(session: Session, row: JobRow, status: JobStatus) -> JobStatus:
    """What becomes of a locked row whose attempt ends with `status`, which nobody concludes as a job's end.

    Who asked for the end, or for a rest, does not want it taken up again. An evaluation keeps what was judged.
    """
    status = _LEAVING.get(row.status, status)
    if status is JobStatus.CANCELLED and isinstance(row, Evaluation):
        evaluation_scores.conclude(session, row)
    return status


def leave(
    session: Session, row: JobRow, status: JobStatus, error: JobError | None = None, *, lost: bool, **said: str
) -> None:
    """Bring a locked row to `status`, end its attempt if that is no status of a held job, record and notify."""
    owner = row.lease_owner
    row.move_to(status, error)
    if lost:
        row.losses += 1
    if isinstance(row, SupervisedJob):
        if status not in HELD:
            attempt: Any = session.get_one(row.ATTEMPTS, (row.id, row.attempt))
            attempt.ended_at, attempt.outcome, attempt.lost = func.now(), status, lost
            session.flush()
            assert attempt.ended_at is not None
            row.seconds_used += (attempt.ended_at - attempt.started_at).total_seconds()
        session.flush()
        record_status(session, row, owner, **said)
    else:
        events.notify_job(session, row.KIND, row.id)


@dataclass(frozen=True)
class Wish:
    """What people want of a held job by now."""

    stop: Literal["pause", "cancel"] | None
    checkpoint: int
    """The newest request for a checkpoint out of turn that none has answered; 0: none."""


def wish(database: Database, claim: Claim) -> Wish:
    """What is asked of the job. Raises LeaseLost."""
    job = claim.job
    unanswered: Any = literal(0)
    if job is Run:
        unanswered = case((Run.checkpoint_requests > Run.checkpoint_answers, Run.checkpoint_requests), else_=0)
    with database.transaction() as session:
        asked = select(job.attempt, job.lease_owner, job.status, unanswered.label("checkpoint"))
        found = session.execute(asked.where(job.id == claim.id)).one_or_none()
    if found is None or (found.attempt, found.lease_owner) != (claim.attempt, claim.owner) or found.status not in HELD:
        raise LeaseLost(f"attempt {claim.attempt} of {job.KIND} {claim.id} is no longer {claim.owner}'s")
    stop: dict[JobStatus, Literal["pause", "cancel"]] = {
        JobStatus.PAUSING: "pause",
        JobStatus.CANCELLING: "cancel",
    }
    return Wish(stop.get(found.status), found.checkpoint)


def record_status(session: Session, row: Run | Evaluation, owner: str | None, **said: str) -> None:
    """Add a change of state to the job's events, and notify."""
    data = {"status": row.status.value, "worker": owner, **said}
    if row.error is not None and row.status in (JobStatus.FAILED, JobStatus.PAUSED):
        data |= {"code": row.error["code"], "detail": row.error["detail"]}
    events.record(session, type(row), row.id, row.attempt, "status", data)
    events.notify_job(session, row.KIND, row.id)


def _expiry(database: Database) -> ColumnElement[datetime]:
    return func.now() + timedelta(seconds=database.settings.lease_seconds)
