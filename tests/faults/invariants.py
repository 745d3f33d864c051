"""Invariants after a campaign of faults. Each check yields descriptions of its violations."""

import itertools
import time
import uuid
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import redis
from sqlalchemy import func, select, text
from sqlalchemy.orm import Session

from service.client import Client
from service.contracts.attempt_files import MANIFEST_FILE
from service.contracts.status import HELD, INACTIVE, MOVES, JobStatus
from service.db.models import (
    Checkpoint,
    EvaluationImage,
    Garbage,
    GenerationImage,
    Metric,
    RewardGroup,
    Sample,
    ScoreImage,
    SupervisedJob,
)
from service.db.models.run import LogChunk
from service.db.session import Database, connect
from service.jobs.registry import JOBS, queues
from tests.faults.comparison import Comparison
from tests.faults.monitor import Monitor
from tests.faults.references import References
from tests.faults.system import System, alive
from tests.faults.users import Job, Users
from worker.maintenance import garbage_collection

_SOON_SECONDS = 20.0
_SAME_MOMENT = timedelta(milliseconds=100)
"""Tolerance, because the times of attempts are the start times of transactions that may commit in another order."""
_WRITTEN_BY_WORKERS = (Metric, RewardGroup, Sample, Checkpoint, LogChunk)
_KEPT_COPIES = 16
_OF_JOBS = ("checkpoints/", *(f"{job.FOLDER}/" for job in JOBS.values()))
_JOBS: dict[str, Any] = dict(JOBS)
_SUPERVISED = tuple(job for job in JOBS.values() if issubclass(job, SupervisedJob))

AUDIT = """
CREATE TABLE campaign_writes (
    relation text, run_id uuid, label text, owner text, status text, rows bigint,
    PRIMARY KEY (relation, run_id, label, owner, status)
);
CREATE FUNCTION campaign_note() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF NEW.run_id IS NOT NULL THEN
        INSERT INTO campaign_writes
        SELECT TG_TABLE_NAME, NEW.run_id, coalesce(current_setting('campaign.worker', true), ''),
               coalesce(lease_owner, ''), status, 1
        FROM runs WHERE id = NEW.run_id
        ON CONFLICT (relation, run_id, label, owner, status) DO UPDATE SET rows = campaign_writes.rows + 1;
    END IF;
    RETURN NULL;
END $$;
""" + "".join(
    f"CREATE TRIGGER campaign AFTER INSERT ON {model.__tablename__} FOR EACH ROW EXECUTE FUNCTION campaign_note();\n"
    for model in _WRITTEN_BY_WORKERS
)
"""Records for every row of a training worker the process that wrote it and the lease owner at that time."""


class Findings:
    """All checks of an idle system."""

    def __init__(self, system: System, monitor: Monitor, users: Users, references: References) -> None:
        self._system, self._monitor, self._users = system, monitor, users
        self._database: Database = connect(system.settings())
        self.compared: defaultdict[str, int] = defaultdict(int)
        """Number of checked items by kind."""
        self._comparison = Comparison(system, self._database, references, self.compared)

    def close(self) -> None:
        self._database.close()

    def all(self) -> list[str]:
        """All violations."""
        found = list(self._users.broken)
        checks: tuple[Callable[[], Iterator[str]], ...] = (
            self._recoveries, self._ends, self._once, self._attempts, self._writers, self._records,
            self._comparison.results, self._comparison.images_and_scores, self._comparison.evaluations,
            self._leases, self._queues, self._processes, self._working_directories, self._artifacts,
        )  # fmt: skip
        for check in checks:
            found += [f"{check.__name__.removeprefix('_')}: {one}" for one in check()]
        return found

    def _recoveries(self) -> Iterator[str]:
        for fault in self._monitor.faults:
            for id in fault.met.keys() - fault.recovered.keys():
                yield f"{fault.met[id].kind} {id} made no progress after: {fault.kind} ({fault.aim})"

    def _ends(self) -> Iterator[str]:
        with self._database.transaction() as session:
            for job in self._users.jobs:
                row = _row(session, job)
                if row is None:
                    if not job.deleted:
                        yield f"{job.kind} {job.id} was accepted but no longer exists"
                elif job.deleted:
                    yield f"{job.kind} {job.id} was deleted, and is there ({row.status})"
                elif row.status not in job.ends:
                    yield f"{job.kind} {job.id} ended as {row.status}, not {job.ends}: {row.error}"
                self.compared["jobs"] += 1

    def _once(self) -> Iterator[str]:
        known = {job.id for job in self._users.jobs}
        with self._database.transaction() as session:
            for model in _JOBS.values():
                extra = set(session.scalars(select(model.id))) - known
                if extra:
                    yield f"{len(extra)} {model.KIND}s that no client received, such as {sorted(extra)[0]}"

    def _attempts(self) -> Iterator[str]:
        for job in _SUPERVISED:
            table = job.ATTEMPTS
            with self._database.transaction() as session:
                attempts = session.scalars(select(table).order_by(table.job_id, table.number)).all()
            for id, own in itertools.groupby(attempts, lambda one: one.job_id):
                tries = list(own)
                self.compared["attempts"] += len(tries)
                yield from (f"{job.KIND} {id}: {one}" for one in _wrong_tries(tries))

    def _writers(self) -> Iterator[str]:
        yield from (f"two processes of one attempt: {one}" for one in self._monitor.twins)
        with self._database.transaction() as session:
            writes = session.execute(
                text("SELECT relation, run_id, label, owner, status, rows FROM campaign_writes")
            ).all()
        for write in writes:
            self.compared["rows written by workers"] += write.rows
            pids = self._system.workers_by_label.get(write.label, set())
            if not write.owner and write.status in INACTIVE:
                self.compared["of these, recovered from ended runs"] += write.rows
                continue
            if not write.owner or int(write.owner.split(":")[1]) not in pids:
                yield (
                    f"{write.rows} rows of {write.relation} of run {write.run_id} were written by {write.label} "
                    f"(processes {sorted(pids)}) while {write.owner or 'nobody'} held it ({write.status})"
                )

    def _records(self) -> Iterator[str]:
        with self._database.transaction() as session:
            for job in _SUPERVISED:
                for row in session.scalars(select(job)):
                    yield from _events(session, row)
                    yield from _log(session, row)

    def _leases(self) -> Iterator[str]:
        with self._database.transaction() as session:
            for model in _JOBS.values():
                for row in session.scalars(select(model)):
                    if row.status in HELD or row.lease_owner is not None or row.lease_expires_at is not None:
                        yield f"{model.KIND} {row.id} ({row.status}) is held by {row.lease_owner}"

    def _queues(self) -> Iterator[str]:
        with redis.Redis(unix_socket_path=self._system.broker_socket) as valkey:
            if not _soon(lambda: not any(valkey.llen(queue) for queue in queues())):
                yield f"messages left: { ({queue: valkey.llen(queue) for queue in queues()}) }"

    def _processes(self) -> Iterator[str]:
        children = self._monitor.children.values()
        self.compared["processes of runs and evaluations"] += len(children)
        if not _soon(lambda: not any(one.alive() for one in children)):
            yield f"processes of runs and evaluations that still run: {[one for one in children if one.alive()]}"

    def _working_directories(self) -> Iterator[str]:
        for machine in self._system.machines:
            copies = list((machine / "work" / "checkpoints").glob("*"))
            if len(copies) > _KEPT_COPIES + 1:
                yield f"{len(copies)} fetched checkpoints in {machine}, {_KEPT_COPIES} are kept"
            left = [one.name for one in copies if not _is_id(one.name)]
            self.compared["half-fetched checkpoints left by kills"] += len(left)

    def _artifacts(self) -> Iterator[str]:
        settings = self._system.settings(orphan_seconds=0.001)
        database = connect(settings)
        try:
            orphans = garbage_collection.find_orphans(database)
            with database.transaction() as session:
                owners = {f"{kind}s/{id}" for kind, job in _JOBS.items() for id in session.scalars(select(job.id))}
            yield from (f"find_orphans takes {one}, whose job exists" for one in owners.intersection(orphans))
            self.compared["orphans of deleted jobs, collected"] += len(orphans)
            garbage_collection.collect_garbage(database)
            named, sizes = _named(database), _stored(self._system.artifacts)
        finally:
            database.close()
        for key in sorted(named - sizes.keys()):
            yield f"a row names {key}, which the store lacks"
        for key in sorted(sizes.keys() - named):
            if not key.startswith(_OF_JOBS):
                continue
            if not any(key.startswith(f"{owner}/") for owner in owners):
                yield f"nothing owns {key} in the store"
            self.compared["files of living jobs that no row names"] += 1


def leftovers(system: System, processes: Iterable[tuple[int, float]]) -> list[str]:
    """Processes and sockets that remain after the system has stopped."""
    known = list(processes)
    _soon(lambda: not any(alive(*one) for one in known))
    found = [f"process {pid} still runs" for pid, began in known if alive(pid, began)]
    for server in ("postgres", "valkey"):
        if (system.machines[0] / server / "sockets").is_symlink():
            found.append(f"the sockets of {server} still lie about")
    return found


def empty_store(system: System, users: Users) -> list[str]:
    """Delete every run and return the remaining run files of the store."""
    with Client(system.stack.url, patience=60.0) as client:
        for run in list(client.runs()):  # newest first: those that started from others go before them
            client.delete_run(run.id)
    database = connect(system.settings())

    def collected() -> bool:
        garbage_collection.collect_garbage(database)
        with database.transaction() as session:
            return session.scalar(select(Garbage.prefix).limit(1)) is None

    try:
        _soon(collected)  # a worker may be removing some of it
        return [f"{key} is left of deleted runs" for key in _stored(system.artifacts) if key.startswith("runs/")][:5]
    finally:
        database.close()


def _row(session: Session, job: Job) -> Any:
    return session.get(_JOBS[job.kind], job.id)


def _wrong_tries(tries: Sequence[Any]) -> Iterator[str]:
    if [one.number for one in tries] != list(range(1, len(tries) + 1)):
        yield f"it has the attempts {[one.number for one in tries]}"
    for one in tries:
        if one.ended_at is None or one.outcome is None:
            yield f"attempt {one.number} has no end"
    for earlier, later in itertools.pairwise(tries):
        if earlier.ended_at and later.started_at < earlier.ended_at - _SAME_MOMENT:
            yield f"attempts {earlier.number} and {later.number} overlap"


def _events(session: Session, job: SupervisedJob) -> Iterator[str]:
    about, table = f"{job.KIND} {job.id}", job.EVENTS
    rows = session.scalars(select(table).where(table.job_id == job.id).order_by(table.id)).all()
    if [row.id for row in rows] != list(range(1, job.last_event + 1)):
        yield f"{about}: its events are numbered {[row.id for row in rows]}, the last is {job.last_event}"
    started = [row.attempt for row in rows if row.type == "started"]
    if len(set(started)) < len(started):
        yield f"{about}: the attempts {started} started, some twice"
    states = [JobStatus(row.data["status"]) for row in rows if row.type == "status"]
    for before, after in itertools.pairwise(states):
        through_running = before is JobStatus.STARTING and after in MOVES[JobStatus.RUNNING]
        if after not in MOVES[before] and not through_running:
            yield f"{about} went from {before} to {after}: {[str(state) for state in states]}"
    bad = [row.type for row in rows if row.type in ("unreadable_event", "sample_rejected", "checkpoint_rejected")]
    bad += [row.type for row in rows if row.type == "image_rejected"]
    bad += [row.type for row in rows if row.type == "checkpoint_damaged"]
    if bad:
        yield f"{about}: {bad}"


def _log(session: Session, job: SupervisedJob) -> Iterator[str]:
    logs, tries = job.LOGS, job.ATTEMPTS
    for attempt in session.scalars(select(tries).where(tries.job_id == job.id)):
        about = f"the log of attempt {attempt.number} of {job.KIND} {job.id}"
        place = 0
        own = (logs.job_id == job.id, logs.attempt == attempt.number)
        chunks = select(logs.offset, func.length(logs.data)).where(*own).order_by(logs.offset)
        for offset, length in session.execute(chunks):
            if offset != place:
                yield f"{about} has a chunk at {offset}, not at {place}"
            place = offset + length
        if place != attempt.log_offset:
            yield f"{about} ends at {place}, not {attempt.log_offset}"


def _soon(condition: Callable[[], bool], seconds: float = _SOON_SECONDS) -> bool:
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.1)
    return True


def _is_id(name: str) -> bool:
    try:
        return str(uuid.UUID(name)) == name
    except ValueError:
        return False


def _named(database: Database) -> set[str]:
    """Keys of stored files referenced by rows."""
    with database.transaction() as session:
        named = (Sample.key, GenerationImage.key, ScoreImage.key, EvaluationImage.key)
        keys = {key for column in named for key in session.scalars(select(column))}
        for row in session.scalars(select(Checkpoint).where(Checkpoint.deleted_at.is_(None))):
            keys |= {f"{row.key}/{name}" for name in (*(file["name"] for file in row.manifest["files"]), MANIFEST_FILE)}
    return keys


def _stored(artifacts: Path) -> dict[str, int]:
    """Files of the store, with their sizes."""
    return {
        path.relative_to(artifacts).as_posix(): path.stat().st_size for path in artifacts.rglob("*") if path.is_file()
    }
