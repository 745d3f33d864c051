"""The work of a run: the checkpoint to go on from is fetched, and the child trains."""

import uuid
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import ClassVar

import structlog
from sqlalchemy import select
from sqlalchemy.orm import Session

from service.contracts.jobs import ENCODINGS, SPEC_FILE
from service.contracts.runs import Limits, RunSpec
from service.db import events
from service.db.artifacts import ArtifactDamaged
from service.db.models import Checkpoint, Run, SupervisedJob
from service.db.session import Database
from worker.jobs import artifact_transfer, command
from worker.jobs.claim import Claim, JobRow, held
from worker.jobs.run_ingest import RunIngest

log = structlog.get_logger()


class RunWork:
    """Training by `program`, which tests of supervision replace."""

    job: ClassVar[type[SupervisedJob]] = Run
    stored: ClassVar[tuple[str, ...]] = ("samples", "checkpoints", "prompt-sets", artifact_transfer.START, ENCODINGS)

    def __init__(self, program: Sequence[str] = command.TRAIN) -> None:
        self._program = program

    def limits(self, row: Run) -> Limits:
        """Those of the spec."""
        return _spec_of(row).limits

    def prepare(self, database: Database, claim: Claim, row: Run, directory: Path) -> command.Launch:
        """Have the spec, uploaded prompts and the checkpoint to go on from here, and the command that trains from them.

        Raises ArtifactDamaged where the run has checkpoints, of which none is whole: it must not begin anew unasked.
        """
        spec_file, spec = directory / SPEC_FILE, _spec_of(row)
        spec_file.write_text(spec.model_dump_json(indent=2), encoding="utf-8")
        fetched = directory / artifact_transfer.START
        resume = _newest_whole_checkpoint(database, claim, row.max_steps, fetched)
        start = row.start_from if resume is None else None
        start_from = artifact_transfer.fetch_checkpoint(database, start, fetched) if start else None
        sets = {
            name: artifact_transfer.fetch_prompt_set(database, uuid.UUID(id), directory / "prompt-sets")
            for name, id in row.prompt_sets.items()
        }
        processes = spec.resources.processes_per_node
        return command.train(spec_file, directory, start_from, resume, self._program, processes, sets)

    def ingest(
        self,
        database: Database,
        claim: Claim,
        directory: Path,
        number: int | None = None,
        lock: Callable[[Session, Claim], JobRow] = held,
    ) -> RunIngest:
        """The reader of an attempt's files."""
        return RunIngest(database, claim, directory, number, lock)

    def conclude(self, database: Database, claim: Claim) -> None:
        """Nothing: what a run comes to is in its last event."""


def _spec_of(run: Run) -> RunSpec:
    """The run's spec with as many steps as it is to do by now."""
    spec = RunSpec.model_validate(run.spec)
    return spec.model_copy(update={"training": spec.training.model_copy(update={"max_steps": run.max_steps})})


def _newest_whole_checkpoint(database: Database, claim: Claim, most_steps: int, into: Path) -> Path | None:
    """The run's own newest checkpoint that the store has whole, fetched `into`; None where it has none at all."""
    with database.transaction() as session:
        rows = session.execute(
            select(Checkpoint.id, Checkpoint.step, Checkpoint.damaged)
            .where(Checkpoint.run_id == claim.id, Checkpoint.deleted_at.is_(None), Checkpoint.step <= most_steps)
            .order_by(Checkpoint.step.desc(), Checkpoint.attempt.desc())
        ).all()
    for id_, step, damaged in rows:
        try:
            place = artifact_transfer.fetch_checkpoint(database, id_, into)
        except ArtifactDamaged as error:
            log.warning("checkpoint.damaged", checkpoint=str(id_), detail=str(error))
            _note(database, claim, id_, step, str(error))
            continue
        if damaged and artifact_transfer.is_stored(
            database, id_
        ):  # the store has been mended; the files may have been here
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
