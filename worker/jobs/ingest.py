"""Ingestion of an attempt's events and log into database rows, exactly once.

Subclasses handle the events of a job type. The offset up to which a file was read is committed together with its rows.
After a crash, only the uncommitted part is read again. This is safe because rows are upserted and artifacts have fixed
keys.
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

from service.contracts.attempt_files import EVENTS_FILE, LOG_FILE
from service.contracts.events import Failed, Finished, Phase, Progress, Started
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
"""Number of characters of an invalid line that are stored in the job's events. The file keeps the whole line."""
_LOG_END_BYTES = 64 * 1024
"""Number of bytes at the end of the log that trimming keeps."""


@dataclass
class Batch:
    """The content of a section of the events file. Subclasses add fields of a job type."""

    rows: dict[type[Any], list[dict[str, Any]]] = field(default_factory=lambda: defaultdict(list))
    """New rows by table."""
    records: list[tuple[str, dict[str, Any]]] = field(default_factory=list)
    """Entries to add to the job's events, as pairs of type and data."""
    counts: Counter[str] = field(default_factory=Counter)
    """Increments of the worker's counters."""
    files: dict[str, list[str]] = field(default_factory=dict)
    """Keys of the stored files by the artifact key that a row of this batch refers to."""
    started: Started | None = None
    progress: Progress | None = None
    finished: Finished | None = None


B = TypeVar("B", bound=Batch)


class Ingest(ABC, Generic[B]):
    """Ingests the files of attempt `number` of a claimed job, which is the claim's attempt by default.

    An earlier attempt is ingested if its worker died before it had read everything. `lock` returns the job's locked
    row, or raises LeaseLost if the claim may not write.
    """

    batch: ClassVar[type[Any]] = Batch
    replaced: ClassVar[Mapping[type[Any], tuple[str, ...]]] = {}
    """Columns, by table, that a new row overwrites in an existing row. In other tables, existing rows are unchanged."""

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
        """The event that ends the attempt, after it has been read."""
        self.started = False
        """Whether the process has loaded its models and polls the control file."""
        self.step_seconds = 0.0
        """Last reported step duration in seconds; 0 if none was reported."""
        self.phase: Phase = "loading"
        """Last reported phase."""

    def drain(self) -> None:
        """Ingest everything written so far. Raises LeaseLost, SQLAlchemyError or StoreUnavailable."""
        STATS.set_backlog(_LAG, self.written() - self._events_offset)
        while piece := whole_lines(self._directory / EVENTS_FILE, self._events_offset):
            self._ingest_events(piece)
        STATS.set_backlog(_LAG, self.written() - self._events_offset)
        while self._ingest_log():
            pass

    def written(self) -> int:
        """Return the current size of the events file in bytes, which grows while the process makes progress."""
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
        """Parse a line, add it to the batch, and store its files. Raises ValidationError if it is not a valid event."""

    @abstractmethod
    def _write(self, session: Session, row: Any, batch: B) -> None:
        """Update the job and related rows after the batch's rows are inserted, while the job is locked."""

    def _keep(self, session: Session, named: Select[Any], batch: B) -> None:
        """Remove the garbage marks of artifacts that this batch's rows refer to.

        They may have been marked before the rows existed. This can only happen to an ended attempt. Raises
        StoreUnavailable if a file was already removed, so that the batch is read and its files are stored again.
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
        """Hook that is called after a batch is committed."""

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
        """Load the attempt's current row. While the job is locked, other readers cannot change it."""
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
        """Return the key prefix of this attempt's artifacts."""
        return f"{self._job.FOLDER}/{self._claim.id}/{self._number}"


def whole_lines(path: Path, offset: int) -> bytes:
    """Read complete lines from `offset` on, up to a size limit that only a longer single line exceeds.

    Returns nothing if the next line is incomplete or the file does not exist.
    """
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
    """Insert `rows`. In an existing row with the same primary key, only the columns in `replaced` are updated."""
    statement = insert(table)
    if replaced:
        changes = {name: statement.excluded[name] for name in replaced}
        statement = statement.on_conflict_do_update(constraint=table.__table__.primary_key, set_=changes)
    else:
        statement = statement.on_conflict_do_nothing()
    # With a list of rows instead of `values(rows)`, the driver pipelines one prepared statement.
    session.connection().execute(statement, rows)


class ProcessLog:
    """The file with a process's output.

    Its first `max_bytes` bytes are ingested, and its end helps to explain failures. The process appends to the file
    directly. A pipe would block the process if the worker stops reading, and would lose the last output if the worker
    is killed. After trimming, the process continues to append at the new end.
    """

    def __init__(self, path: Path, max_bytes: int) -> None:
        self._path, self._max_bytes = path, max_bytes
        self._last_line = f"\n[only the first {max_bytes} bytes of this log are kept: G2RPO_MAX_LOG_BYTES]\n".encode()

    def read(self, offset: int, size: int) -> bytes:
        """Return at most `size` bytes from `offset` on.

        After `max_bytes` bytes, one line that states the limit follows.
        """
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
        """Return the last `size` bytes as text."""
        try:
            with self._path.open("rb") as file:
                file.seek(max(0, file.seek(0, 2) - size))
                # PostgreSQL stores no NUL in text.
                return file.read().decode("utf-8", errors="replace").replace("\x00", "�").strip()
        except FileNotFoundError:
            return ""

    def trim(self) -> None:
        """Remove the middle of the file if it exceeds 2 * `max_bytes` bytes.

        Output written during trimming may be lost. Raises OSError if the file cannot be read or written.
        """
        with contextlib.suppress(FileNotFoundError):
            if self._path.stat().st_size <= 2 * self._max_bytes:
                return
            with self._path.open("r+b") as file, self._path.open("ab") as appending:
                file.seek(-min(_LOG_END_BYTES, self._max_bytes), 2)
                end = file.read(_LOG_END_BYTES)
                file.truncate(self._max_bytes)
                appending.write(end)
