"""From an attempt's files to rows: events and the log, each exactly once. What an event means is its job's matter.

The place up to which a file has been read commits together with the rows that came from it. So a crash at any moment
repeats at most what it did not commit, and repeating is harmless: rows are upserts, and artifacts have fixed keys.
"""

import errno
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, TypeVar

import structlog
from pydantic import ValidationError
from sqlalchemy import Select, delete, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from service.contracts.events import Failed, Finished, Phase, Progress, Started
from service.contracts.jobs import EVENTS_FILE, LOG_FILE
from service.contracts.status import JobStatus
from service.db import events
from service.db.artifacts import StoreUnavailable
from service.db.models import Garbage, SupervisedJob
from service.db.session import Database
from worker.jobs.claim import Claim, JobRow, held, move_held
from worker.jobs.process_log import ChildLog
from worker.monitoring.stats import STATS

log = structlog.get_logger()

_LAG = "ingestion_lag"
_BATCH_BYTES = 4 << 20
_EXCERPT = 2000
"""Characters of a line that is no event, kept in the job's events; the whole line stays in the worker's file."""


@dataclass
class Batch:
    """What a piece of the events file said, whatever the job."""

    records: list[tuple[str, dict[str, Any]]] = field(default_factory=list)
    """For the job's events: type and data."""
    counted: Counter[str] = field(default_factory=Counter)
    """For the worker's statistics."""
    files: dict[str, list[str]] = field(default_factory=dict)
    """Of what would be a leftover without a row: its files in the store, by the key that the row names."""
    started: Started | None = None
    progress: Progress | None = None
    finished: Finished | None = None


B = TypeVar("B", bound=Batch)


class Ingest(ABC, Generic[B]):
    """Reads the files of attempt `number` of a claimed job. Writes are refused when the claim is no longer held.

    `number` is an earlier attempt's where that one's worker died before it had read everything. `lock` gives the job's
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
        assert issubclass(claim.job, SupervisedJob)
        self._job: type[SupervisedJob] = claim.job
        self._database, self._claim, self._directory, self._lock = database, claim, directory, lock
        self._number = claim.attempt if number is None else number
        with database.transaction() as session:
            attempt = self._read_so_far(session)
            self._events_offset, self._log_offset = attempt.events_offset, attempt.log_offset
        self._printed = ChildLog(directory / LOG_FILE, database.settings.max_log_bytes)
        self.ending: Finished | Failed | None = None
        """The child's own word on how it ended, once it was read."""
        self.started = False
        """Whether the child has loaded what it needs, and looks at what it is asked."""
        self.step_seconds = 0.0
        """How long a step lately takes, as far as the child has said."""
        self.phase: Phase = "loading"
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
        batch = self._new_batch()
        place = self._events_offset
        for line in piece.splitlines(keepends=True):
            try:
                self._read(line, batch)
            except ValidationError as error:
                batch.records.append(("unreadable_event", self._unreadable(line, place, error)))
            place += len(line)
        with self._database.transaction() as session:
            row = self._lock(session, self._claim)
            assert isinstance(row, SupervisedJob)
            read = self._read_so_far(session).events_offset
            if read == self._events_offset:
                self._write(session, row, batch)
                self._write_common(session, row, batch)
                session.execute(self._attempt().values(events_offset=place))
        if read != self._events_offset:  # somebody read on meanwhile; what comes next is another piece
            self._events_offset = read
            return
        self._events_offset = place
        self._written(batch)
        for what, number in batch.counted.items():
            STATS.add(what, number)

    @abstractmethod
    def _new_batch(self) -> B:
        """An empty batch."""

    @abstractmethod
    def _read(self, line: bytes, batch: B) -> None:
        """Take a line into the batch, and its files into the store. Raises ValidationError where it is no event."""

    @abstractmethod
    def _write(self, session: Session, row: Any, batch: B) -> None:
        """Write the rows of a batch, under the job's lock."""

    def _keep(self, session: Session, named: Select[Any], batch: B) -> None:
        """Take back that files are garbage which rows have come to name: they may have been marked when none did.

        Only an attempt that is over has such: nobody sees that it is still being read. Raises StoreUnavailable where
        a file is gone already: it is stored again when it is read again.
        """
        if not batch.files or (self._lock is held and self._number == self._claim.attempt):
            return
        marked = Garbage.prefix.in_(list(batch.files)), Garbage.prefix.in_(named)
        session.execute(delete(Garbage).where(*marked))  # waits for whoever is removing them
        files, store = {file for key in batch.files for file in batch.files[key]}, self._database.artifacts
        places = {file.rpartition("/")[0] for file in files}
        gone = files - {f"{place}/{name}" for place in places for name in store.names(place)}
        if gone:
            raise StoreUnavailable(errno.ENOENT, f"{min(gone)} was removed while it was read")

    def _written(self, batch: B) -> None:
        """A batch is committed."""

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

    def _write_common(self, session: Session, row: SupervisedJob, batch: B) -> None:
        for type_, data in batch.records:
            events.record(session, self._job, row.id, self._number, type_, data)
        events.notify_job(session, row.KIND, row.id)
        if batch.progress is not None and self._number == self._claim.attempt:
            row.progress = batch.progress.model_dump(mode="json", exclude={"type"})
        if batch.started is not None:
            session.execute(self._attempt().values(provenance=batch.started.provenance))
            if row.status is JobStatus.STARTING and self._number == self._claim.attempt:
                session.flush()
                move_held(session, self._claim, JobStatus.RUNNING)

    def _ingest_log(self) -> bool:
        data = self._printed.read(self._log_offset, self._database.settings.log_chunk_bytes)
        if not data:
            return False
        with self._database.transaction() as session:
            self._lock(session, self._claim)
            read = self._read_so_far(session).log_offset
            if read == self._log_offset:
                chunk = {**self._key(), "offset": self._log_offset, "data": data}
                upsert(session, self._job.LOGS, [chunk], (self._owner, "attempt", "offset"), ())
                session.execute(self._attempt().values(log_offset=self._log_offset + len(data)))
        self._log_offset = read if read != self._log_offset else self._log_offset + len(data)
        return True

    def _read_so_far(self, session: Session) -> Any:
        """The attempt as it is now: the job's lock is held, so that nobody reads on meanwhile."""
        key = {self._owner: self._claim.id, "number": self._number}
        return session.get_one(self._job.ATTEMPTS, key, populate_existing=True)

    def _unreadable(self, line: bytes, place: int, error: ValidationError) -> dict[str, Any]:
        text = line.decode("utf-8", errors="replace").replace("\x00", "�").rstrip("\n")
        log.warning(
            "ingest.unreadable_event",
            **{self._job.KIND: str(self._claim.id)},
            attempt=self._number,
            offset=place,
            line=text,
        )
        first = error.errors(include_url=False, include_input=False, include_context=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        return {
            "offset": place,
            "line": text[:_EXCERPT],
            "detail": f"{where}: {first['msg']}" if where else first["msg"],
        }

    @property
    def _owner(self) -> str:
        return f"{self._job.KIND}_id"

    def _key(self) -> dict[str, Any]:
        return {self._owner: self._claim.id, "attempt": self._number}

    def _prefix(self) -> str:
        """Of the keys of this attempt's artifacts."""
        return f"{self._job.FOLDER}/{self._claim.id}/{self._number}"

    def _attempt(self) -> Any:
        attempts = self._job.ATTEMPTS
        return update(attempts).where(attempts.job_id == self._claim.id, attempts.number == self._number)


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


def upsert(
    session: Session, table: type[Any], rows: Iterable[dict[str, Any]], key: tuple[str, ...], replaced: tuple[str, ...]
) -> None:
    """Insert `rows`; of those that are there already by their `key`, the columns `replaced` change."""
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
