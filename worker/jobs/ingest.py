"""Reads the events and the log of an attempt into rows, each exactly once. Subclasses interpret the events of a kind.

The offset up to which a file was read commits together with its rows. After a crash at most the uncommitted part is
read again, which is harmless: rows are upserts, and artifacts have fixed keys.
"""

import contextlib
import errno
from abc import ABC, abstractmethod
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Generic, TypeVar

import structlog
from pydantic import ValidationError
from sqlalchemy import Select, delete
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from service.contracts.events import Failed, Finished, Phase, Progress, Started
from service.contracts.jobs import EVENTS_FILE, LOG_FILE
from service.contracts.status import JobStatus
from service.db import events
from service.db.artifacts import StoreUnavailable
from service.db.models import Garbage, SupervisedJob
from service.db.session import Database
from worker.jobs.claim import Claim, held, move_held
from worker.monitoring.stats import STATS

log = structlog.get_logger()

_LAG = "ingestion_lag"
_BATCH_BYTES = 4 << 20
_EXCERPT = 2000
"""Characters of an invalid line that the job's events keep; the whole line stays in the worker's file."""
_LOG_END_BYTES = 64 * 1024
"""Bytes of the log's end that trimming keeps."""


@dataclass
class Batch:
    """The content of a piece of the events file, common to all kinds."""

    rows: dict[type[Any], list[dict[str, Any]]] = field(default_factory=lambda: defaultdict(list))
    """New rows by table."""
    records: list[tuple[str, dict[str, Any]]] = field(default_factory=list)
    """Entries for the job's events: type and data."""
    counts: Counter[str] = field(default_factory=Counter)
    """Numbers to add to the worker's statistics."""
    files: dict[str, list[str]] = field(default_factory=dict)
    """Stored files by the key that a row will name."""
    started: Started | None = None
    progress: Progress | None = None
    finished: Finished | None = None


B = TypeVar("B", bound=Batch)


class Ingest(ABC, Generic[B]):
    """Reads the files of attempt `number` of a claimed job: by default the claim's attempt.

    An earlier attempt is read if its worker died before it had read everything. `lock` returns the job's locked row, or
    raises LeaseLost if the claim may not write.
    """

    batch: ClassVar[type[Any]] = Batch
    replaced: ClassVar[Mapping[type[Any], tuple[str, ...]]] = {}
    """By table: the columns that a new row replaces in a row of the same primary key. Other existing rows stay."""

    def __init__(
        self,
        database: Database,
        claim: Claim,
        directory: Path,
        number: int | None = None,
        lock: Callable[[Session, Claim], Any] = held,
    ) -> None:
        assert issubclass(claim.model, SupervisedJob)
        self._job: type[SupervisedJob] = claim.model
        self._database, self._claim, self._directory, self._lock = database, claim, directory, lock
        self._number = claim.attempt if number is None else number
        with database.transaction() as session:
            attempt = self._attempt_row(session)
            self._events_offset, self._log_offset = attempt.events_offset, attempt.log_offset
        self.log = ProcessLog(directory / LOG_FILE, database.settings.max_log_bytes)
        self.ending: Finished | Failed | None = None
        """The process's last event, once it was read."""
        self.started = False
        """Whether the process has loaded its models and reads the control file."""
        self.step_seconds = 0.0
        """Last reported duration of a step; 0 if none was reported."""
        self.phase: Phase = "loading"
        """Last reported phase."""

    def drain(self) -> None:
        """Read everything written so far into rows. Raises LeaseLost, SQLAlchemyError and StoreUnavailable."""
        STATS.set_backlog(_LAG, self.written() - self._events_offset)
        while piece := whole_lines(self._directory / EVENTS_FILE, self._events_offset):
            self._ingest_events(piece)
        STATS.set_backlog(_LAG, self.written() - self._events_offset)
        while self._ingest_log():
            pass

    def written(self) -> int:
        """Bytes of events written so far, read or not; a process that works makes it grow."""
        path = self._directory / EVENTS_FILE
        return path.stat().st_size if path.exists() else 0

    def _ingest_events(self, piece: bytes) -> None:
        batch = self.batch()
        offset = self._events_offset
        for line in piece.splitlines(keepends=True):
            try:
                self._read(line, batch)
            except ValidationError as error:
                batch.records.append(("unreadable_event", self._unreadable(line, offset, error)))
            offset += len(line)
        with self._database.transaction() as session:
            row = self._lock(session, self._claim)
            assert isinstance(row, SupervisedJob)
            attempt = self._attempt_row(session)
            unread = attempt.events_offset == self._events_offset
            if unread:
                for table, rows in batch.rows.items():
                    if rows:
                        upsert(session, table, rows, self.replaced.get(table, ()))
                self._write(session, row, batch)
                self._write_common(session, row, attempt, batch)
                attempt.events_offset = offset
        self._events_offset = attempt.events_offset
        if not unread:  # another reader was faster: continue after its piece
            return
        self._written(batch)
        for name, number in batch.counts.items():
            STATS.add(name, number)

    @abstractmethod
    def _read(self, line: bytes, batch: B) -> None:
        """Add a line to the batch and its files to the store. Raises ValidationError if it is not an event."""

    @abstractmethod
    def _write(self, session: Session, row: Any, batch: B) -> None:
        """Update the job and related rows for a batch whose rows are inserted, under the job's lock."""

    def _keep(self, session: Session, named: Select[Any], batch: B) -> None:
        """Unmark garbage that rows of this batch name: it may have been marked before these rows existed.

        Only files of an ended attempt can be marked. Raises StoreUnavailable if a file was already removed: reading the
        batch again stores it again.
        """
        if not batch.files or (self._lock is held and self._number == self._claim.attempt):
            return
        marked = Garbage.prefix.in_(list(batch.files)), Garbage.prefix.in_(named)
        session.execute(delete(Garbage).where(*marked))  # waits for a collection in progress
        files, store = {file for key in batch.files for file in batch.files[key]}, self._database.artifacts
        prefixes = {file.rpartition("/")[0] for file in files}
        gone = files - {f"{prefix}/{name}" for prefix in prefixes for name in store.names(prefix)}
        if gone:
            raise StoreUnavailable(errno.ENOENT, f"{min(gone)} was removed while it was read")

    def _written(self, batch: B) -> None:
        """Called after a batch is committed."""

    def _read_common(self, event: Started | Progress | Finished | Failed, batch: B) -> None:
        match event:
            case Started():
                batch.started, self.started = event, True
                data = {"resumed_at": event.resumed_at, "device": event.provenance.get("device")}
                batch.records.append(("started", data))
            case Progress():
                batch.progress = event
                self.step_seconds = event.step_seconds or self.step_seconds
                self.phase = event.phase
            case Finished():
                batch.finished = self.ending = event
            case Failed():
                self.ending = event

    def _write_common(self, session: Session, row: SupervisedJob, attempt: Any, batch: B) -> None:
        for type_, data in batch.records:
            events.record(session, self._job, row.id, self._number, type_, data)
        events.notify_job(session, row.KIND, row.id)
        if batch.progress is not None and self._number == self._claim.attempt:
            row.progress = batch.progress.model_dump(mode="json", exclude={"type"})
        if batch.started is not None:
            attempt.provenance = batch.started.provenance
            if row.status is JobStatus.STARTING and self._number == self._claim.attempt:
                session.flush()
                move_held(session, self._claim, JobStatus.RUNNING)

    def _ingest_log(self) -> bool:
        data = self.log.read(self._log_offset, self._database.settings.log_chunk_bytes)
        if not data:
            return False
        with self._database.transaction() as session:
            self._lock(session, self._claim)
            attempt = self._attempt_row(session)
            if attempt.log_offset == self._log_offset:
                chunk = {**self._key(), "offset": self._log_offset, "data": data}
                upsert(session, self._job.LOGS, [chunk])
                attempt.log_offset += len(data)
        self._log_offset = attempt.log_offset
        return True

    def _attempt_row(self, session: Session) -> Any:
        """The attempt's current row; the job's lock keeps other readers from changing it."""
        key = {f"{self._job.KIND}_id": self._claim.id, "number": self._number}
        return session.get_one(self._job.ATTEMPTS, key, populate_existing=True)

    def _unreadable(self, line: bytes, offset: int, error: ValidationError) -> dict[str, Any]:
        text = line.decode("utf-8", errors="replace").replace("\x00", "�").rstrip("\n")
        job = {self._job.KIND: str(self._claim.id)}
        log.warning("ingest.unreadable_event", **job, attempt=self._number, offset=offset, line=text)
        first = error.errors(include_url=False, include_input=False, include_context=False)[0]
        detail = ": ".join(filter(None, [".".join(map(str, first["loc"])), first["msg"]]))
        return {"offset": offset, "line": text[:_EXCERPT], "detail": detail}

    def _key(self) -> dict[str, Any]:
        return {f"{self._job.KIND}_id": self._claim.id, "attempt": self._number}

    def _prefix(self) -> str:
        """Prefix of the keys of this attempt's artifacts."""
        return f"{self._job.FOLDER}/{self._claim.id}/{self._number}"


def whole_lines(path: Path, offset: int) -> bytes:
    """Complete lines of the file from `offset` on, limited in size; empty if the next line is incomplete."""
    try:
        with path.open("rb") as file:
            file.seek(offset)
            piece = file.read(_BATCH_BYTES)
            while b"\n" not in piece and (more := file.read(_BATCH_BYTES)):
                piece += more
    except FileNotFoundError:
        return b""
    return piece[: piece.rfind(b"\n") + 1]


def upsert(session: Session, table: type[Any], rows: list[dict[str, Any]], replaced: tuple[str, ...] = ()) -> None:
    """Insert `rows`. Of existing rows with the same primary key, the columns `replaced` change, or nothing."""
    statement = insert(table)
    if replaced:
        changes = {name: statement.excluded[name] for name in replaced}
        statement = statement.on_conflict_do_update(constraint=table.__table__.primary_key, set_=changes)
    else:
        statement = statement.on_conflict_do_nothing()
    # A list of rows instead of `values(rows)`: the driver sends one prepared statement in a pipeline.
    session.connection().execute(statement, rows)


class ProcessLog:
    """The file that a process prints to. The first `max_bytes` go into rows; its end explains failures.

    The process appends to the file directly: a pipe would block it while nobody reads, and lose its last output if the
    worker is killed. Trimming removes the middle of the file; the process continues to append at the new end.
    """

    def __init__(self, path: Path, max_bytes: int) -> None:
        self._path, self._max_bytes = path, max_bytes
        self._last_line = f"\n[only the first {max_bytes} bytes of this log are kept: G2RPO_MAX_LOG_BYTES]\n".encode()

    def read(self, offset: int, size: int) -> bytes:
        """At most `size` bytes from `offset` on. After `max_bytes` follows one line that names the limit."""
        room = self._max_bytes - offset
        if room < 0:
            return b""
        try:
            with self._path.open("rb") as file:
                file.seek(offset)
                data = file.read(min(size, room) or 1)
        except FileNotFoundError:
            return b""
        return self._last_line if data and room == 0 else data

    def tail(self, size: int = 4000) -> str:
        """The last `size` bytes, as text."""
        try:
            with self._path.open("rb") as file:
                file.seek(max(0, file.seek(0, 2) - size))
                # PostgreSQL stores no NUL in text.
                return file.read().decode("utf-8", errors="replace").replace("\x00", "�").strip()
        except FileNotFoundError:
            return ""

    def trim(self) -> None:
        """Remove the middle of a file of more than 2 * `max_bytes`. A line printed meanwhile may be lost.

        Raises OSError.
        """
        with contextlib.suppress(FileNotFoundError):
            if self._path.stat().st_size <= 2 * self._max_bytes:
                return
            with self._path.open("r+b") as file, self._path.open("ab") as appending:
                file.seek(-min(_LOG_END_BYTES, self._max_bytes), 2)
                end = file.read(_LOG_END_BYTES)
                file.truncate(self._max_bytes)
                appending.write(end)
