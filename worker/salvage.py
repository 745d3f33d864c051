"""Reading what a lost worker left unread of a run that nobody takes again: it ended, or rests.

A run that is taken again is read by its next supervisor; this is for the others, such as one that was cancelled while
its worker died, or whose last checkpoint the artifact store refused until it was mended.
"""

import uuid
from collections.abc import Iterator
from pathlib import Path

import structlog
from sqlalchemy import select, tuple_
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session

from service.contracts.jobs import EVENTS_FILE
from service.contracts.status import RESTING
from service.db.models import Attempt, Run
from service.db.session import Database
from worker.claims import Claim, JobRow, LeaseLost
from worker.ingest import Ingest, whole_lines

log = structlog.get_logger()


def salvage(database: Database) -> None:
    """Bring into rows and into the store what resting runs still have on this machine alone."""
    for run_id, newest, attempt, directory in list(unread(database)):
        claim = Claim(Run, run_id, newest, "", 0.0)
        try:
            Ingest(database, claim, directory, attempt, lock=_resting).drain()
            log.info("run.salvaged", run=str(run_id), attempt=attempt)
        except LeaseLost:
            continue  # resumed meanwhile: its supervisor reads it
        except (SQLAlchemyError, OSError) as error:
            log.warning("run.not_salvaged", run=str(run_id), attempt=attempt, error=str(error).splitlines()[0])


def unread(database: Database) -> Iterator[tuple[uuid.UUID, int, int, Path]]:
    """Resting runs with whole lines on this machine that are in no row: run, its newest attempt, attempt, directory."""
    root = database.settings.data_dir.absolute() / "work" / "runs"
    places = dict(_attempts(root)) if root.is_dir() else {}
    with database.transaction() as session:
        found = session.execute(
            select(Attempt.run_id, Attempt.number, Attempt.events_offset, Run.attempt)
            .join(Run, Run.id == Attempt.run_id)
            .where(Run.status.in_(RESTING), tuple_(Attempt.run_id, Attempt.number).in_(places))
        ).all()
    for run_id, number, offset, newest in found:
        directory = places[run_id, number]
        if whole_lines(directory / EVENTS_FILE, offset):
            yield run_id, newest, number, directory


def _attempts(root: Path) -> Iterator[tuple[tuple[uuid.UUID, int], Path]]:
    for directory in root.glob("*/attempt-*"):
        try:
            yield (uuid.UUID(directory.parent.name), int(directory.name.removeprefix("attempt-"))), directory
        except ValueError:
            continue  # not ours


def _resting(session: Session, claim: Claim) -> JobRow:
    row = session.get(Run, claim.id, with_for_update=True, populate_existing=True)
    if row is None or row.status not in RESTING or row.attempt != claim.attempt:
        raise LeaseLost(f"run {claim.id} no longer rests")
    return row
