"""Training runs: a child process trains, starting from the run's newest checkpoint if there is one."""

import os
import shutil
import sys
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import structlog
from sqlalchemy import ColumnElement, Select, case, func, select, true
from sqlalchemy.orm import Session

from service.contracts import events as run_events
from service.contracts.attempt_files import ENCODINGS, MANIFEST_FILE, SPEC_FILE
from service.contracts.runs import Limits, RunSpec
from service.db import deletion, events
from service.db.artifacts import ArtifactDamaged
from service.db.models import Attempt, Checkpoint, Metric, RewardGroup, Run, Sample
from service.db.session import Database
from worker.jobs import artifact_transfer
from worker.jobs.claim import Claim, held
from worker.jobs.ingest import Batch, Ingest
from worker.jobs.process import Command, engine_environment
from worker.jobs.supervisor import SupervisedJobType

log = structlog.get_logger()

PROGRAM = (sys.executable, "-m", "worker.entrypoints.train")
RANKS = (sys.executable, "-m", "worker.entrypoints.launcher")
"""Command prefix that starts a program in several processes."""


def train_command(
    spec_file: Path,
    directory: Path,
    start_from: Path | None = None,
    resume: Path | None = None,
    program: Sequence[str] = PROGRAM,
    processes: int = 1,
    prompt_sets: Mapping[str, Path] | None = None,
) -> Command:
    """Return the command that trains the run in `spec_file` and writes its output to `directory`.

    `start_from` is a checkpoint with initial weights; `resume`, a checkpoint of this run to continue from, takes
    precedence. `prompt_sets` maps names of uploaded prompt sets to files. On a CPU, processes share the cores evenly.
    """
    ranks = [*RANKS, str(processes), str(directory)] if processes > 1 else []
    argv = [*ranks, *program, str(spec_file), "--out", str(directory)]
    if resume is not None:
        argv += ["--resume", str(resume)]
    elif start_from is not None:
        argv += ["--start-from", str(start_from)]
    for name, file in (prompt_sets or {}).items():
        argv += ["--prompt-set", f"{name}={file}"]
    environment = engine_environment()
    if processes > 1:
        environment.setdefault("OMP_NUM_THREADS", str(max(1, len(os.sched_getaffinity(0)) // processes)))
    return Command(tuple(argv), environment)


@dataclass
class RunBatch(Batch):
    """The content of a section of a run's events file."""

    stored: list[Path] = field(default_factory=list)
    """Local directories of the checkpoints stored in this batch."""
    answered: int = 0
    """Number of the newest checkpoint request that was answered."""


class RunIngest(Ingest[RunBatch]):
    """Ingests the files of a run attempt."""

    batch = RunBatch
    replaced: ClassVar[Mapping[type[Any], tuple[str, ...]]] = {Metric: ("value",), RewardGroup: ("prompt", "values")}

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._local: list[Path] = []
        """Local directories of this attempt's stored checkpoints."""

    def _read(self, line: bytes, batch: RunBatch) -> None:
        match run_events.EventLine.validate_json(line):
            case run_events.Metrics() as event:
                key = {**self._key(), "step": event.step}
                batch.rows[Metric] += [{**key, "name": name, "value": value} for name, value in event.values.items()]
                parts = {name: value or 0.0 for name, value in event.values.items() if name.startswith("nfe/")}
                parts.pop("nfe/total", None)
                batch.counts["nfe"] += int(sum(parts.values()))
            case run_events.RewardGroups() as event:
                batch.counts["steps"] += 1
                key = {**self._key(), "step": event.step}
                batch.rows[RewardGroup] += [{**group.model_dump(), **key} for group in event.groups]
            case run_events.Sample() as event:
                self._read_sample(event, batch)
            case run_events.CheckpointSaved() as event:
                self._read_checkpoint(event, batch)
            case event:
                self._read_common(event, batch)

    def _written(self, batch: RunBatch) -> None:
        """Remove the local copies of all stored checkpoints except the newest."""
        self._local += batch.stored
        while len(self._local) > 1:
            shutil.rmtree(self._local.pop(0), ignore_errors=True)

    def _read_sample(self, event: run_events.Sample, batch: RunBatch) -> None:
        key = f"{self._prefix()}/samples/{event.step}-{event.kind}-{event.index}.png"
        try:
            source = artifact_transfer.inside(self._directory, event.file)
            artifact_transfer.store_file(self._database.artifacts, source, key, event.sha256)
        except artifact_transfer.Rejected as error:
            batch.records.append(("sample_rejected", {"step": event.step, "file": event.file, "detail": str(error)}))
            return
        row = event.model_dump(exclude={"type", "time", "file"})
        batch.rows[Sample].append({**row, **self._key(), "key": key})

    def _read_checkpoint(self, event: run_events.CheckpointSaved, batch: RunBatch) -> None:
        key = f"{self._prefix()}/checkpoints/{event.step}"
        batch.answered = max(batch.answered, event.request)
        if self._is_stored(event.step):  # it was already saved for another reason at the same step
            return
        try:
            source = artifact_transfer.inside(self._directory, event.directory)
            manifest = artifact_transfer.store_checkpoint(self._database.artifacts, source, key)
        except artifact_transfer.Rejected as error:
            data = {"step": event.step, "directory": event.directory, "detail": str(error)}
            batch.records.append(("checkpoint_rejected", data))
            return
        batch.files[key] = [f"{key}/{name}" for name in (*(file.name for file in manifest.files), MANIFEST_FILE)]
        size = sum(file.size for file in manifest.files)
        row = {"step": event.step, "best_value": event.best, "key": key, "size": size}
        row |= manifest.model_dump(include={"kind", "model", "architecture"})
        batch.rows[Checkpoint].append({**self._key(), **row, "manifest": manifest.model_dump(mode="json")})
        batch.stored.append(source)
        batch.records.append(("checkpoint", {"step": event.step, "size": size}))

    def _is_stored(self, step: int) -> bool:
        row = select(Checkpoint.id).where(Checkpoint.run_id == self._claim.id, Checkpoint.step == step)
        with self._database.transaction() as session:
            return session.scalar(row.where(Checkpoint.attempt == self._number)) is not None

    def _write(self, session: Session, row: Run, batch: RunBatch) -> None:
        row.checkpoint_answers = max(row.checkpoint_answers, batch.answered)
        if batch.rows[Checkpoint]:
            self._write_checkpoints(session, row, batch)
        # Attempts before a resumption may have a different number of steps, and an older attempt must not overwrite
        # results.
        counts = self._number > row.resumed_attempt and (self._number == row.attempt or row.heldout is None)
        if batch.finished is not None and batch.finished.outcome == "succeeded" and counts:
            row.heldout = {name: summary.model_dump(mode="json") for name, summary in batch.finished.heldout.items()}
        if batch.started is not None:
            session.get_one(Attempt, (row.id, self._number)).resumed_at = batch.started.resumed_at

    def _write_checkpoints(self, session: Session, row: Run, batch: RunBatch) -> None:
        self._keep(session, select(Checkpoint.key).where(Checkpoint.run_id == row.id), batch)
        row.losses = 0
        keep = session.scalar(select(Run.spec["checkpoints"]["keep"].as_integer()).where(Run.id == row.id))
        if keep is not None:
            for step in deletion.retire_old(session, row.id, keep):
                events.record(session, Run, row.id, self._number, "checkpoint_retired", {"step": step, "keep": keep})


class RunJobType(SupervisedJobType):
    """Job type for training runs."""

    model = Run
    program = PROGRAM
    artifact_pattern = "*/checkpoints/*"
    ingest = RunIngest
    stored = ("samples", "checkpoints", "prompt-sets", artifact_transfer.START, ENCODINGS)

    def claimable(self, devices: int | None) -> ColumnElement[bool]:
        """Return the SQL condition that the run needs at most `devices` devices, one for each of its processes."""
        if devices is None:
            return true()
        return func.coalesce(Run.spec["resources", "processes_per_node"].as_integer(), 1) <= devices

    def attempt_columns(self, row: Run) -> dict[str, Any]:
        return {"max_steps": row.max_steps}

    def checkpoint_request(self) -> ColumnElement[int]:
        return case((Run.checkpoint_requests > Run.checkpoint_answers, Run.checkpoint_requests), else_=0)

    def artifact_keys(self, id: uuid.UUID) -> Select[Any]:
        return select(Checkpoint.key).where(Checkpoint.run_id == id, Checkpoint.deleted_at.is_(None))

    def limits(self, row: Run) -> Limits:
        return _spec(row).limits

    def prepare(self, database: Database, claim: Claim, row: Run, directory: Path) -> Command:
        """Write the spec, the uploaded prompt sets and the checkpoint to start from, and return the command.

        Raises ArtifactDamaged if the run has checkpoints but all of them are damaged, because it must not restart
        silently, or if the checkpoint in `start_from` or a prompt set is damaged.
        """
        spec_file, spec = directory / SPEC_FILE, _spec(row)
        spec_file.write_text(spec.model_dump_json(indent=2), encoding="utf-8")
        fetched = directory / artifact_transfer.START
        resume = _newest_checkpoint(database, claim, row.max_steps, fetched)
        start = row.start_from if resume is None else None
        start_from = artifact_transfer.fetch_checkpoint(database, start, fetched) if start else None
        sets = {
            name: artifact_transfer.fetch_prompt_set(database, uuid.UUID(id), directory / "prompt-sets")
            for name, id in row.prompt_sets.items()
        }
        processes = spec.resources.processes_per_node
        return train_command(spec_file, directory, start_from, resume, self.program, processes, sets)


def _spec(run: Run) -> RunSpec:
    """Return the run's spec with the current number of steps, which may have been increased by resuming the run."""
    spec = RunSpec.model_validate(run.spec)
    return spec.model_copy(update={"training": spec.training.model_copy(update={"max_steps": run.max_steps})})


def _newest_checkpoint(database: Database, claim: Claim, max_steps: int, directory: Path) -> Path | None:
    """Fetch the run's newest undamaged checkpoint into `directory`. Returns None if the run has no checkpoint.

    Raises ArtifactDamaged if all checkpoints are damaged.
    """
    with database.transaction() as session:
        rows = session.execute(
            select(Checkpoint.id, Checkpoint.step, Checkpoint.damaged)
            .where(Checkpoint.run_id == claim.id, Checkpoint.deleted_at.is_(None), Checkpoint.step <= max_steps)
            .order_by(Checkpoint.step.desc(), Checkpoint.attempt.desc())
        ).all()
    for id_, step, damaged in rows:
        try:
            path = artifact_transfer.fetch_checkpoint(database, id_, directory)
        except ArtifactDamaged as error:
            log.warning("checkpoint.damaged", checkpoint=str(id_), detail=str(error))
            _record_damage(database, claim, id_, step, str(error))
            continue
        # The files may come from this machine's cache. Clear the mark only if the files in the store are intact.
        if damaged and artifact_transfer.is_stored(database, id_):
            _record_damage(database, claim, id_, step, None)
        return path
    if rows:
        raise ArtifactDamaged(f"all {len(rows)} checkpoints of the run are damaged; the newest is {rows[0].id}")
    return None


def _record_damage(database: Database, claim: Claim, id_: uuid.UUID, step: int, damage: str | None) -> None:
    """Mark a checkpoint as damaged, or as undamaged if `damage` is None.

    Retention uses the mark to keep an undamaged checkpoint that the run can continue from.
    """
    with database.transaction() as session:
        held(session, claim)
        checkpoint = session.get_one(Checkpoint, id_, with_for_update=True)
        if damage is not None and not checkpoint.damaged:
            data = {"checkpoint": str(id_), "step": step, "detail": damage}
            events.record(session, Run, claim.id, claim.attempt, "checkpoint_damaged", data)
        checkpoint.damaged = damage is not None
