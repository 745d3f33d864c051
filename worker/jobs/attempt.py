"""What comes before a child is started, whatever its job: earlier attempts are read, and there is room."""

import uuid
from pathlib import Path

from sqlalchemy import select

from service.contracts.events import Failed, Finished
from service.contracts.jobs import EVENTS_FILE
from service.db.session import Database
from worker.jobs.claim import Claim
from worker.jobs.job_type import Work
from worker.jobs.outcome import Outcome, classify


def finish_earlier_attempts(database: Database, claim: Claim, place: Path, work: Work) -> Outcome | None:
    """Bring into rows what earlier workers on this machine had no time for, from the attempts' directories in `place`.

    The outcome is the last attempt's, if that had ended the job before its worker was lost; what older ones say of
    their end was overtaken by those that went on.
    """
    with database.transaction() as session:
        job, attempts = work.job, work.job.ATTEMPTS
        resumed = session.scalars(select(job.resumed_attempt).where(job.id == claim.id)).one()
        earlier = select(attempts.number).where(attempts.job_id == claim.id, attempts.number < claim.attempt)
        numbers = session.scalars(earlier.order_by(attempts.number)).all()
    outcome = None
    for number in numbers:
        directory = place / f"attempt-{number}"
        if not directory.is_dir():
            continue
        ingest = work.ingest(database, claim, directory, number)
        ingest.drain()
        counts = number == claim.attempt - 1 and number > resumed
        if counts and isinstance(ingest.ending, Finished | Failed) and not _paused(ingest.ending):
            outcome = classify(ingest.ending, 0, stop=None, out_of_memory=False, log_tail=ingest.log_tail())
    return outcome


def make_room(directory: Path) -> None:
    """A directory for a fresh attempt. Files of one of that number, of a database that was since restored, go aside."""
    if (directory / EVENTS_FILE).exists():
        directory.rename(directory.with_name(f"former-{directory.name}-{uuid.uuid4()}"))
    directory.mkdir(parents=True, exist_ok=True)


def _paused(ending: Finished | Failed) -> bool:
    """Whether it only stopped when it was asked to, so that it is to go on."""
    return isinstance(ending, Finished) and ending.outcome == "paused" and ending.cause is None
