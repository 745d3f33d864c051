"""From an attempt's files to rows: events, pictures, checkpoints and the log, each exactly once.

The place up to which a file has been read commits together with the rows that came from it. So a crash at any moment
repeats at most what it did not commit, and repeating is harmless: rows are upserts, and artifacts have fixed keys.
"""

import shutil
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import structlog
from pydantic import ValidationError
from sqlalchemy import select, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from service.contracts import events as said
from service.contracts.jobs import EVENTS_FILE, LOG_FILE
from service.contracts.status import JobStatus
from service.db import events, retention
from service.db.models import Attempt, Checkpoint, LogChunk, Metric, RewardGroup, Run, Sample
from service.db.session import Database
from worker import artifacts
from worker.child_log import ChildLog
from worker.claims import Claim, JobRow, held, move_held
from worker.stats import STATS

log = structlog.get_logger()

_LAG = "ingestion_lag"
_BATCH_BYTES = 4 << 20
_EXCERPT = 2000
"""Characters of a line that is no event, kept in the run's events; the whole line stays in the worker's file."""


@dataclass
class _Batch:
    """What a piece of the events file said."""

    metrics: dict[tuple[str, int], float | None] = field(default_factory=dict)
    groups: list[dict[str, Any]] = field(default_factory=list)
    samples: list[dict[str, Any]] = field(default_factory=list)
    checkpoints: list[dict[str, Any]] = field(default_factory=list)
    stored: list[Path] = field(default_factory=list)
    answered: int = 0
    steps: int = 0
    evaluations: float = 0.0
    records: list[tuple[str, dict[str, Any]]] = field(default_factory=list)
    started: said.Started | None = None
    progress: said.Progress | None = None
    finished: said.Finished | None = None


class Ingest:
    """Reads the files of attempt `number` of a claimed run. Writes are refused when the claim is no longer held.

    `number` is an earlier attempt's where that one's worker died before it had read everything. `lock` gives the run's
    row, locked, or raises LeaseLost where the claim may not write.
    """

    def __init__(
        self,
        database: Database,
        claim: Claim,
        directory: Path,
        number: int | None = None,
        lock: Callable[[Session, Claim], JobRow] = held,
    ) -> None:
        self._database, self._claim, self._directory, self._lock = database, claim, directory, lock
        self._number = claim.attempt if number is None else number
        with database.transaction() as session:
            attempt = session.get_one(Attempt, (claim.id, self._number))
            self._events_offset, self._log_offset = attempt.events_offset, attempt.log_offset
        self._printed = ChildLog(directory / LOG_FILE, database.settings.max_log_bytes)
        self._local: list[Path] = []
        """Checkpoints of this attempt that are both in the store and on this machine."""
        self.ending: said.Finished | said.Failed | None = None
        """The child's own word on how it ended, once it was read."""
        self.started = False
        """Whether the child has loaded what it needs, and looks at what it is asked."""
        self.step_seconds = 0.0
        """How long a step lately takes, as far as the child has said."""
        self.phase: said.Phase = "loading"
        """What the child last said it does."""

    def drain(self) -> None:
        """Bring everything that was written up to now into rows. Raises LeaseLost, or what database and store raise."""
        STATS.behind(_LAG, self.written() - self._events_offset)
        while piece := whole_lines(self._directory / EVENTS_FILE, self._events_offset):
            self._ingest_events(piece)
        STATS.behind(_LAG, self.written() - self._events_offset)
        while self._ingest_log():
            pass

    def written(self) -> int:
        """Bytes of events the child has written so far: it is alive while this grows, whether or not they are read."""
        path = self._directory / EVENTS_FILE
        return path.stat().st_size if path.exists() else 0

    def log_tail(self, size: int = 4000) -> str:
        """The end of what the child printed."""
        return self._printed.tail(size)

    def trim_log(self) -> None:
        """Keep what the child prints from filling the disk. Raises OSError."""
        self._printed.trim()

    def _ingest_events(self, piece: bytes) -> None:
        batch = _Batch()
        place = self._events_offset
        lines = piece.splitlines(keepends=True)
        for line in lines:
            try:
                self._read(said.EventLine.validate_json(line), batch)
            except ValidationError as error:
                batch.records.append(("unreadable_event", self._unreadable(line, place, error)))
            place += len(line)
        with self._database.transaction() as session:
            run = self._lock(session, self._claim)
            assert isinstance(run, Run)
            read = self._read_so_far(session).events_offset
            if read == self._events_offset:
                self._write(session, run, batch)
                session.execute(self._attempt().values(events_offset=place))
        if read != self._events_offset:  # somebody read on meanwhile; what comes next is another piece
            self._events_offset = read
            return
        self._events_offset = place
        self._forget_stored(batch.stored)
        STATS.add("steps", batch.steps)
        STATS.add("evaluations", batch.evaluations)

    def _read(self, event: said.Event, batch: _Batch) -> None:
        match event:
            case said.Started():
                batch.started, self.started = event, True
                data = {"resumed_at": event.resumed_at, "device": event.provenance.get("device")}
                batch.records.append(("started", data))
            case said.Progress():
                batch.progress = event
                self.step_seconds = event.step_seconds or self.step_seconds
                self.phase = event.phase
            case said.Metrics():
                batch.metrics |= {(name, event.step): value for name, value in event.values.items()}
                parts = {name: value or 0.0 for name, value in event.values.items() if name.startswith("evaluations/")}
                batch.evaluations += sum(parts.values()) - parts.get("evaluations/total", 0.0)
            case said.RewardGroups():
                batch.steps += 1
                batch.groups += [{**group.model_dump(), **self._key(), "step": event.step} for group in event.groups]
            case said.Sample():
                self._read_sample(event, batch)
            case said.CheckpointSaved():
                self._read_checkpoint(event, batch)
            case said.Finished():
                batch.finished = self.ending = event
            case said.Failed():
                self.ending = event

    def _read_sample(self, event: said.Sample, batch: _Batch) -> None:
        key = f"{self._prefix()}/samples/{event.step}-{event.kind}-{event.index}.png"
        try:
            source = artifacts.inside(self._directory, event.file)
            artifacts.store_file(self._database.artifacts, source, key, event.sha256)
        except (artifacts.Rejected, FileNotFoundError) as error:
            batch.records.append(("sample_rejected", {"step": event.step, "file": event.file, "detail": str(error)}))
            return
        row = event.model_dump(exclude={"type", "time", "file"})
        batch.samples.append({**row, **self._key(), "key": key})

    def _read_checkpoint(self, event: said.CheckpointSaved, batch: _Batch) -> None:
        key = f"{self._prefix()}/checkpoints/{event.step}"
        batch.answered = max(batch.answered, event.request)
        if self._is_stored(event.step):  # saved for one reason, and asked for by another
            return
        try:
            source = artifacts.inside(self._directory, event.directory)
            manifest = artifacts.store_checkpoint(self._database.artifacts, source, key)
        except (artifacts.Rejected, FileNotFoundError) as error:
            data = {"step": event.step, "directory": event.directory, "detail": str(error)}
            batch.records.append(("checkpoint_rejected", data))
            return
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

    def _forget_stored(self, stored: list[Path]) -> None:
        """Remove checkpoints that are in the store from this machine, but for the newest one."""
        self._local += stored
        while len(self._local) > 1:
            shutil.rmtree(self._local.pop(0), ignore_errors=True)

    def _write(self, session: Session, run: Run, batch: _Batch) -> None:
        key = self._key()
        metrics = [{**key, "name": name, "step": step, "value": value} for (name, step), value in batch.metrics.items()]
        _upsert(session, Metric, metrics, ("run_id", "name", "step", "attempt"), ("value",))
        groups = ("run_id", "step", "prompt_index", "sde_step", "granularity", "reward", "attempt")
        _upsert(session, RewardGroup, batch.groups, groups, ("prompt", "values"))
        _upsert(session, Sample, batch.samples, ("run_id", "step", "kind", "index", "attempt"), ())
        run.checkpoint_answers = max(run.checkpoint_answers, batch.answered)
        if batch.checkpoints:
            self._write_checkpoints(session, run, batch)
        for type_, data in batch.records:
            events.record(session, Run, run.id, self._number, type_, data)
        events.notify_job(session, "run", run.id)
        if batch.progress is not None and self._number == self._claim.attempt:
            run.progress = batch.progress.model_dump(mode="json", exclude={"type"})
        # Attempts before a resumption had other steps to do, and one that was overtaken has no last word.
        counts = self._number > run.resumed_attempt and (self._number == run.attempt or run.heldout is None)
        if batch.finished is not None and batch.finished.outcome == "succeeded" and counts:
            run.heldout = {name: summary.model_dump(mode="json") for name, summary in batch.finished.heldout.items()}
        if batch.started is not None:
            started = batch.started
            session.execute(self._attempt().values(provenance=started.provenance, resumed_at=started.resumed_at))
            if run.status is JobStatus.STARTING and self._number == self._claim.attempt:
                session.flush()
                move_held(session, self._claim, JobStatus.RUNNING)

    def _write_checkpoints(self, session: Session, run: Run, batch: _Batch) -> None:
        _upsert(session, Checkpoint, batch.checkpoints, ("run_id", "step", "attempt"), ())
        run.losses = 0
        keep = session.scalar(select(Run.spec["checkpoints"]["keep"].as_integer()).where(Run.id == run.id))
        if keep is not None:
            for step in retention.retire_old(session, run.id, keep):
                events.record(session, Run, run.id, self._number, "checkpoint_retired", {"step": step, "keep": keep})

    def _ingest_log(self) -> bool:
        data = self._printed.read(self._log_offset, self._database.settings.log_chunk_bytes)
        if not data:
            return False
        with self._database.transaction() as session:
            self._lock(session, self._claim)
            read = self._read_so_far(session).log_offset
            if read == self._log_offset:
                chunk = {**self._key(), "offset": self._log_offset, "data": data}
                _upsert(session, LogChunk, [chunk], ("run_id", "attempt", "offset"), ())
                session.execute(self._attempt().values(log_offset=self._log_offset + len(data)))
        self._log_offset = read if read != self._log_offset else self._log_offset + len(data)
        return True

    def _read_so_far(self, session: Session) -> Attempt:
        """The attempt as it is now: the run's lock is held, so that nobody reads on meanwhile."""
        return session.get_one(Attempt, (self._claim.id, self._number), populate_existing=True)

    def _unreadable(self, line: bytes, place: int, error: ValidationError) -> dict[str, Any]:
        text = line.decode("utf-8", errors="replace").replace("\x00", "�").rstrip("\n")
        log.warning("ingest.unreadable_event", run=str(self._claim.id), attempt=self._number, offset=place, line=text)
        first = error.errors(include_url=False, include_input=False, include_context=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        return {
            "offset": place,
            "line": text[:_EXCERPT],
            "detail": f"{where}: {first['msg']}" if where else first["msg"],
        }

    def _key(self) -> dict[str, Any]:
        return {"run_id": self._claim.id, "attempt": self._number}

    def _prefix(self) -> str:
        return f"runs/{self._claim.id}/{self._number}"

    def _attempt(self) -> Any:
        return update(Attempt).where(Attempt.run_id == self._claim.id, Attempt.number == self._number)


def whole_lines(path: Path, offset: int) -> bytes:
    """Some whole lines of the file from `offset` on; nothing while the writer is in the middle of the next one."""
    try:
        with path.open("rb") as file:
            file.seek(offset)
            piece = file.read(_BATCH_BYTES)
            while b"\n" not in piece and (more := file.read(_BATCH_BYTES)):
                piece += more
    except FileNotFoundError:
        return b""
    return piece[: piece.rfind(b"\n") + 1]


def _upsert(
    session: Session, table: type[Any], rows: Iterable[dict[str, Any]], key: tuple[str, ...], replaced: tuple[str, ...]
) -> None:
    rows = list(rows)
    if not rows:
        return
    statement = insert(table)
    if replaced:
        changes = {name: statement.excluded[name] for name in replaced}
        statement = statement.on_conflict_do_update(index_elements=key, set_=changes)
    else:
        statement = statement.on_conflict_do_nothing(index_elements=key)
    # A list of rows, never `values(rows)`: the driver then sends one prepared statement in a pipeline.
    session.connection().execute(statement, rows)
