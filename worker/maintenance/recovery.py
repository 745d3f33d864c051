"""Recovery of attempts of ended or paused jobs: ingestion of files that lost workers left unread.

If a job is claimed again, the next supervisor ingests its earlier attempts. This module handles all other jobs, for
example a job that was cancelled while its worker died, or whose last checkpoint could not be stored because the
artifact store was unavailable.
"""

import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import structlog
from sqlalchemy import select, tuple_
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session

from service.contracts.attempt_files import EVENTS_FILE
from service.contracts.events import RECOVERED
from service.contracts.status import INACTIVE
from service.db import events
from service.db.models import Job, SupervisedJob
from service.db.session import Database
from worker.jobs.claim import Claim, LeaseLost
from worker.jobs.ingest import whole_lines
from worker.jobs.supervisor import SupervisedJobType

log = structlog.get_logger()


def recover_unread(database: Database, job_type: SupervisedJobType) -> None:
    """Ingest unread files of ended and paused jobs that exist only on this machine."""
    for id_, newest, attempt, directory in list(unread(database, job_type.model)):
        claim = Claim(job_type, id_, newest, "", 0.0)
        bound = log.bind(**{claim.kind: str(id_)}, attempt=attempt)
        try:
            job_type.ingest(database, claim, directory, attempt, lock=_resting).drain()
            with database.transaction() as session:
                events.record(session, job_type.model, id_, attempt, RECOVERED, {})
            bound.info("job.recovered")
        except LeaseLost:
            continue  # the job was resumed, and its supervisor ingests the attempt
        except (SQLAlchemyError, OSError) as error:
            bound.warning("job.not_recovered", error=str(error).splitlines()[0])


def unread(database: Database, job: type[Job]) -> Iterator[tuple[uuid.UUID, int, int, Path]]:
    """Yield the attempts of ended and paused jobs that have unread events on this machine.

    The items are job id, number of the job's newest attempt, number of the unread attempt, and its directory.
    """
    root = database.settings.data_dir.absolute() / "work" / job.FOLDER
    if not issubclass(job, SupervisedJob) or not root.is_dir():
        return
    attempts, directories = job.ATTEMPTS, dict(_attempt_directories(root))
    with database.transaction() as session:
        found = session.execute(
            select(attempts.job_id, attempts.number, attempts.events_offset, job.attempt)
            .join(job, job.id == attempts.job_id)
            .where(job.status.in_(INACTIVE), tuple_(attempts.job_id, attempts.number).in_(directories))
        ).all()
    for id_, number, offset, newest in found:
        directory = directories[id_, number]
        if whole_lines(directory / EVENTS_FILE, offset):
            yield id_, newest, number, directory


def _attempt_directories(root: Path) -> Iterator[tuple[tuple[uuid.UUID, int], Path]]:
    for directory in root.glob("*/attempt-*"):
        try:
            yield (uuid.UUID(directory.parent.name), int(directory.name.removeprefix("attempt-"))), directory
        except ValueError:
            continue  # not created by a worker


def _resting(session: Session, claim: Claim) -> Any:
    row = session.get(claim.model, claim.id, with_for_update={"key_share": True}, populate_existing=True)
    if row is None or row.status not in INACTIVE or row.attempt != claim.attempt:
        raise LeaseLost(f"{claim.kind} {claim.id} was resumed")
    return row
