"""What comes before a child is started: what earlier attempts left is read, and the child's command is made up."""

import uuid
from collections.abc import Sequence
from pathlib import Path

import structlog
from sqlalchemy import select

from service.contracts.events import Failed, Finished
from service.contracts.jobs import EVENTS_FILE, SPEC_FILE
from service.contracts.runs import RunSpec
from service.db import events
from service.db.artifacts import ArtifactDamaged
from service.db.models import Attempt, Checkpoint, Run
from service.db.session import Database
from worker import artifacts, launch
from worker.claims import Claim, held
from worker.ingest import Ingest
from worker.outcome import Outcome, classify

log = structlog.get_logger()


def finish_earlier_attempts(database: Database, claim: Claim, runs: Path) -> Outcome | None:
    """Bring into rows what earlier workers on this machine had no time for, from the attempts' directories in `runs`.

    The outcome is the last attempt's, if that had ended the run before its worker was lost; what older ones say of
    their end was overtaken by those that went on.
    """
    with database.transaction() as session:
        resumed = session.scalars(select(Run.resumed_attempt).where(Run.id == claim.id)).one()
        earlier = select(Attempt.number).where(Attempt.run_id == claim.id, Attempt.number < claim.attempt)
        numbers = session.scalars(earlier.order_by(Attempt.number)).all()
    outcome = None
    for number in numbers:
        directory = runs / f"attempt-{number}"
        if not directory.is_dir():
            continue
        ingest = Ingest(database, claim, directory, number)
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


def spec_of(run: Run) -> RunSpec:
    """The run's spec with as many steps as it is to do by now."""
    spec = RunSpec.model_validate(run.spec)
    return spec.model_copy(update={"training": spec.training.model_copy(update={"max_steps": run.max_steps})})


def prepare(database: Database, claim: Claim, run: Run, directory: Path, program: Sequence[str]) -> launch.Launch:
    """Have the spec and the checkpoint to go on from on this machine, and the command that trains from them.

    Raises ArtifactDamaged where the run has checkpoints, of which none is whole: it must not begin anew unasked.
    """
    spec_file, spec = directory / SPEC_FILE, spec_of(run)
    spec_file.write_text(spec.model_dump_json(indent=2), encoding="utf-8")
    resume = _newest_whole_checkpoint(database, claim, run.max_steps)
    start = run.start_from if resume is None else None
    start_from = artifacts.fetch_checkpoint(database, start) if start else None
    return launch.train(spec_file, directory, start_from, resume, program, spec.resources.processes_per_node)


def _newest_whole_checkpoint(database: Database, claim: Claim, most_steps: int) -> Path | None:
    """The run's own newest checkpoint that the store still has whole, fetched; None where it has none at all."""
    with database.transaction() as session:
        rows = session.execute(
            select(Checkpoint.id, Checkpoint.step, Checkpoint.damaged)
            .where(Checkpoint.run_id == claim.id, Checkpoint.deleted_at.is_(None), Checkpoint.step <= most_steps)
            .order_by(Checkpoint.step.desc(), Checkpoint.attempt.desc())
        ).all()
    for id_, step, damaged in rows:
        try:
            place = artifacts.fetch_checkpoint(database, id_)
        except ArtifactDamaged as error:
            log.warning("checkpoint.damaged", checkpoint=str(id_), detail=str(error))
            _note(database, claim, id_, step, str(error))
            continue
        if damaged:  # the store has been mended
            _note(database, claim, id_, step, None)
        return place
    if rows:
        raise ArtifactDamaged(f"none of the run's {len(rows)} checkpoints is whole; the newest is {rows[0].id}")
    return None


def _note(database: Database, claim: Claim, id_: uuid.UUID, step: int, damage: str | None) -> None:
    """Remember whether a checkpoint is damaged: retention must not take it for one to go on from."""
    with database.transaction() as session:
        held(session, claim)
        checkpoint = session.get_one(Checkpoint, id_, with_for_update=True)
        if damage is not None and not checkpoint.damaged:
            data = {"checkpoint": str(id_), "step": step, "detail": damage}
            events.record(session, Run, claim.id, claim.attempt, "checkpoint_damaged", data)
        checkpoint.damaged = damage is not None


def _paused(ending: Finished | Failed) -> bool:
    return isinstance(ending, Finished) and ending.outcome == "paused"
