"""What a run's child says, as rows: metrics, reward groups, images and checkpoints."""

import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from service.contracts import events as said
from service.contracts.jobs import MANIFEST_FILE
from service.db import events, retention
from service.db.models import Checkpoint, Metric, RewardGroup, Run, Sample
from worker.jobs import artifact_transfer
from worker.jobs.ingest import Batch, Ingest, upsert


@dataclass
class RunBatch(Batch):
    """What a piece of a run's events file said."""

    metrics: dict[tuple[str, int], float | None] = field(default_factory=dict)
    groups: list[dict[str, Any]] = field(default_factory=list)
    samples: list[dict[str, Any]] = field(default_factory=list)
    checkpoints: list[dict[str, Any]] = field(default_factory=list)
    stored: list[Path] = field(default_factory=list)
    answered: int = 0


class RunIngest(Ingest[RunBatch]):
    """Reads the files of a run's attempt."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._local: list[Path] = []
        """Checkpoints of this attempt that are both in the store and on this machine."""

    def _new_batch(self) -> RunBatch:
        return RunBatch()

    def _read(self, line: bytes, batch: RunBatch) -> None:
        match said.EventLine.validate_json(line):
            case said.Metrics() as event:
                batch.metrics |= {(name, event.step): value for name, value in event.values.items()}
                parts = {name: value or 0.0 for name, value in event.values.items() if name.startswith("nfe/")}
                parts.pop("nfe/total", None)
                batch.counted["nfe"] += int(sum(parts.values()))
            case said.RewardGroups() as event:
                batch.counted["steps"] += 1
                batch.groups += [{**group.model_dump(), **self._key(), "step": event.step} for group in event.groups]
            case said.Sample() as event:
                self._read_sample(event, batch)
            case said.CheckpointSaved() as event:
                self._read_checkpoint(event, batch)
            case event:
                self._read_common(event, batch)

    def _written(self, batch: RunBatch) -> None:
        """Remove checkpoints that are in the store from this machine, but for the newest one."""
        self._local += batch.stored
        while len(self._local) > 1:
            shutil.rmtree(self._local.pop(0), ignore_errors=True)

    def _read_sample(self, event: said.Sample, batch: RunBatch) -> None:
        key = f"{self._prefix()}/samples/{event.step}-{event.kind}-{event.index}.png"
        try:
            source = artifact_transfer.inside(self._directory, event.file)
            artifact_transfer.store_file(self._database.artifacts, source, key, event.sha256)
        except (artifact_transfer.Rejected, FileNotFoundError) as error:
            batch.records.append(("sample_rejected", {"step": event.step, "file": event.file, "detail": str(error)}))
            return
        row = event.model_dump(exclude={"type", "time", "file"})
        batch.samples.append({**row, **self._key(), "key": key})

    def _read_checkpoint(self, event: said.CheckpointSaved, batch: RunBatch) -> None:
        key = f"{self._prefix()}/checkpoints/{event.step}"
        batch.answered = max(batch.answered, event.request)
        if self._is_stored(event.step):  # saved for one reason, and asked for by another
            return
        try:
            source = artifact_transfer.inside(self._directory, event.directory)
            manifest = artifact_transfer.store_checkpoint(self._database.artifacts, source, key)
        except (artifact_transfer.Rejected, FileNotFoundError) as error:
            data = {"step": event.step, "directory": event.directory, "detail": str(error)}
            batch.records.append(("checkpoint_rejected", data))
            return
        batch.files[key] = [f"{key}/{name}" for name in (*(file.name for file in manifest.files), MANIFEST_FILE)]
        size = sum(file.size for file in manifest.files)
        row = {
            "step": event.step,
            "kind": manifest.kind,
            "model": manifest.model,
            "architecture": manifest.architecture,
            "best_value": event.best,
        }
        batch.checkpoints.append(
            {**self._key(), **row, "manifest": manifest.model_dump(mode="json"), "key": key, "size": size}
        )
        batch.stored.append(source)
        batch.records.append(("checkpoint", {"step": event.step, "size": size}))

    def _is_stored(self, step: int) -> bool:
        row = select(Checkpoint.id).where(Checkpoint.run_id == self._claim.id, Checkpoint.step == step)
        with self._database.transaction() as session:
            return session.scalar(row.where(Checkpoint.attempt == self._number)) is not None

    def _write(self, session: Session, row: Run, batch: RunBatch) -> None:
        key = self._key()
        metrics = [{**key, "name": name, "step": step, "value": value} for (name, step), value in batch.metrics.items()]
        upsert(session, Metric, metrics, ("run_id", "name", "step", "attempt"), ("value",))
        groups = ("run_id", "step", "prompt_index", "sde_step", "granularity", "reward", "attempt")
        upsert(session, RewardGroup, batch.groups, groups, ("prompt", "values"))
        upsert(session, Sample, batch.samples, ("run_id", "step", "kind", "index", "attempt"), ())
        row.checkpoint_answers = max(row.checkpoint_answers, batch.answered)
        if batch.checkpoints:
            self._write_checkpoints(session, row, batch)
        # Attempts before a resumption had other steps to do, and one that was overtaken has no last word.
        counts = self._number > row.resumed_attempt and (self._number == row.attempt or row.heldout is None)
        if batch.finished is not None and batch.finished.outcome == "succeeded" and counts:
            row.heldout = {name: summary.model_dump(mode="json") for name, summary in batch.finished.heldout.items()}
        if batch.started is not None:
            session.execute(self._attempt().values(resumed_at=batch.started.resumed_at))

    def _write_checkpoints(self, session: Session, row: Run, batch: RunBatch) -> None:
        upsert(session, Checkpoint, batch.checkpoints, ("run_id", "step", "attempt"), ())
        self._keep(session, select(Checkpoint.key).where(Checkpoint.run_id == row.id), batch)
        row.losses = 0
        keep = session.scalar(select(Run.spec["checkpoints"]["keep"].as_integer()).where(Run.id == row.id))
        if keep is not None:
            for step in retention.retire_old(session, row.id, keep):
                events.record(session, Run, row.id, self._number, "checkpoint_retired", {"step": step, "keep": keep})
