"""Reading what a lost worker left unread of a job that nobody takes again: it ended, or rests.

A job that is taken again is read by its next supervisor; this is for the others, such as one that was cancelled while
its worker died, or whose last checkpoint the artifact store refused until it was mended.
"""

import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import cast

import structlog
from sqlalchemy import select, tuple_
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session

from service.contracts.jobs import EVENTS_FILE
from service.contracts.status import RESTING
from service.db.models import SupervisedJob
from service.db.session import Database
from worker.jobs.claim import Claim, JobRow, JobType, LeaseLost
from worker.jobs.ingest import whole_lines
from worker.jobs.job_type import Work

log = structlog.get_logger()


def salvage(database: Database, work: Work) -> None:
    """Bring into rows and into the store what resting jobs still have on this machine alone."""
    for id_, newest, attempt, directory in list(unread(database, work.job)):
        claim = Claim(cast("JobType", work.job), id_, newest, "", 0.0)
        try:
            work.ingest(database, claim, directory, attempt, lock=_resting).drain()
            log.info("job.salvaged", **{work.job.KIND: str(id_)}, attempt=attempt)
        except LeaseLost:
            continue  # resumed meanwhile: its supervisor reads it
        except (SQLAlchemyError, OSError) as error:
            log.warning(
                "job.not_salvaged", **{work.job.KIND: str(id_)}, attempt=attempt, error=str(error).splitlines()[0]
            )


def unread(database: Database, job: type[SupervisedJob]) -> Iterator[tuple[uuid.UUID, int, int, Path]]:
    """Resting jobs with whole lines on this machine that are in no row: id, newest attempt, attempt, directory."""
    root, attempts = database.settings.data_dir.absolute() / "work" / job.FOLDER, job.ATTEMPTS
    places = dict(_attempts(root)) if root.is_dir() else {}
    with database.transaction() as session:
        found = session.execute(
            select(attempts.job_id, attempts.number, attempts.events_offset, job.attempt)
            .join(job, job.id == attempts.job_id)
            .where(job.status.in_(RESTING), tuple_(attempts.job_id, attempts.number).in_(places))
        ).all()
    for id_, number, offset, newest in found:
        directory = places[id_, number]
        if whole_lines(directory / EVENTS_FILE, offset):
            yield id_, newest, number, directory


def _attempts(root: Path) -> Iterator[tuple[tuple[uuid.UUID, int], Path]]:
    for directory in root.glob("*/attempt-*"):
        try:
            yield (uuid.UUID(directory.parent.name), int(directory.name.removeprefix("attempt-"))), directory
        except ValueError:
            continue  # not ours


def _resting(session: Session, claim: Claim) -> JobRow:
    found = session.get(claim.job, claim.id, with_for_update={"key_share": True}, populate_existing=True)
    row = cast("JobRow | None", found)
    if row is None or row.status not in RESTING or row.attempt != claim.attempt:
        raise LeaseLost(f"{claim.job.KIND} {claim.id} no longer rests")
    return row
