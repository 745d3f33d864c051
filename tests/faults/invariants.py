"""What must hold when the storm has passed. Each check returns what it found wrong, in words; nothing is well."""

import itertools
import time
import uuid
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import redis
from safetensors.numpy import load_file
from sqlalchemy import func, select, text
from sqlalchemy.orm import Session

from service.client import Client
from service.contracts.evaluations import EvaluationJob
from service.contracts.jobs import MANIFEST_FILE
from service.contracts.status import HELD, MOVES, RESTING, JobStatus
from service.db import answers
from service.db.models import (
    Checkpoint,
    Evaluation,
    EvaluationAnswer,
    EvaluationPicture,
    Garbage,
    Generation,
    GenerationImage,
    LogChunk,
    Metric,
    RewardGroup,
    Run,
    Sample,
    Score,
    ScorePicture,
    SupervisedJob,
)
from service.db.session import Database, connect
from service.queue import QUEUES
from tests.faults.monitor import Monitor
from tests.faults.references import Reference, References, timed
from tests.faults.system import System, alive
from tests.faults.users import REWARDS, Job, Users
from worker import collection

_SOON_SECONDS = 20.0
_SAME_MOMENT = timedelta(milliseconds=100)
"""Times of attempts are those at which their transactions began, which may be in another order than their ends."""
_WRITTEN_BY_WORKERS = (Metric, RewardGroup, Sample, Checkpoint, LogChunk)
_KEPT_COPIES = 16
_OF_JOBS = ("runs/", "generations/", "checkpoints/", "scores/", "evaluations/")
_JOBS: dict[str, Any] = {model.KIND: model for model in (Run, Generation, Score, Evaluation)}
_SUPERVISED: tuple[type[SupervisedJob], ...] = (Run, Evaluation)
_ROUNDING = 1e-6
"""Rewards of pictures that an evaluation drew in two parts: other batches end in other last bits."""

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
"""Notes, for every row that a training worker writes, which process wrote it and who held the run at that moment."""


class Findings:
    """All checks over one system that has come to rest."""

    def __init__(self, system: System, monitor: Monitor, users: Users, references: References) -> None:
        self._system, self._monitor, self._users, self._references = system, monitor, users, references
        self._database: Database = connect(system.settings())
        self.compared: dict[str, int] = defaultdict(int)
        """How much was looked at, by what it is."""

    def close(self) -> None:
        self._database.close()

    def all(self) -> list[str]:
        """Everything that is wrong."""
        found = list(self._users.broken)
        checks: tuple[Callable[[], Iterator[str]], ...] = (
            self._recoveries, self._ends, self._once, self._attempts, self._writers, self._records, self._results,
            self._pictures_and_scores, self._evaluations, self._leases, self._queues, self._processes,
            self._working_directories, self._artifacts,
        )  # fmt: skip
        for check in checks:
            found += [f"{check.__name__.removeprefix('_')}: {one}" for one in check()]
        return found

    def _recoveries(self) -> Iterator[str]:
        for fault in self._monitor.faults:
            for id in fault.met.keys() - fault.recovered.keys():
                yield f"{fault.met[id].kind} {id} never got on after: {fault.kind} ({fault.aim})"

    def _ends(self) -> Iterator[str]:
        with self._database.transaction() as session:
            for job in self._users.jobs:
                row = _row(session, job)
                if row is None:
                    if not job.deleted:
                        yield f"{job.kind} {job.id} was accepted, and is gone"
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
                    yield f"{len(extra)} {model.KIND}s that nobody was told of, such as {sorted(extra)[0]}"

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
            if not write.owner and write.status in RESTING:
                self.compared["of these, salvaged of runs at rest"] += write.rows
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

    def _results(self) -> Iterator[str]:
        with self._database.transaction() as session:
            runs = session.scalars(select(Run).where(Run.status == JobStatus.SUCCEEDED).order_by(Run.id)).all()
        with Client(self._system.stack.url, patience=60.0) as client:
            for run in runs:
                self.compared["runs against their reference"] += 1
                reference = self._reference(run)
                yield from (f"run {run.id} ({run.name}): {one}" for one in self._differences(run, reference, client))

    def _reference(self, run: Run) -> Reference:
        start = None
        if run.start_from is not None:
            with self._database.transaction() as session:
                from_ = session.get_one(Checkpoint, run.start_from)
                parent = session.get_one(Run, from_.run_id)
            start = self._reference(parent).checkpoint(from_.step)
        return self._references.of(run.spec, run.max_steps, start)

    def _differences(self, run: Run, reference: Reference, client: Client) -> Iterator[str]:
        with self._database.transaction() as session:
            metrics = _newest(session, Metric, run.id, ("name", "step"))
            groups = _newest(
                session, RewardGroup, run.id, ("step", "prompt_index", "sde_step", "granularity", "reward")
            )
            samples = _newest(session, Sample, run.id, ("step", "kind", "index"))
            checkpoints = session.scalars(
                select(Checkpoint).where(Checkpoint.run_id == run.id, Checkpoint.deleted_at.is_(None))
            ).all()
        values = {key: row.value for key, row in metrics.items() if not timed(key[0])}
        yield from _compare("metrics", values, reference.metrics)
        found = {key: (row.prompt, _single(row.values)) for key, row in groups.items()}
        wanted = {key: (prompt, _single(of_group)) for key, (prompt, of_group) in reference.groups.items()}
        yield from _compare("reward groups", found, wanted)
        if mixed := [step for step, by in _attempts_by_step(groups).items() if len(by) > 1]:
            yield f"the newest reward groups of the steps {mixed} come from several attempts"
        yield from _compare("samples", {key: row.sha256 for key, row in samples.items()}, reference.samples)
        if run.heldout != reference.heldout:
            yield f"heldout is {run.heldout}, not {reference.heldout}"
        last = [one for one in checkpoints if one.step == run.max_steps]
        if not last:
            yield f"there is no checkpoint after the last step, {run.max_steps}"
        for one in checkpoints:
            yield from self._checkpoint(one, reference.checkpoint(one.step))
        for curve in client.curves(run.id).curves:
            if not timed(curve.name):
                steps = sorted(step for name, step in reference.metrics if name == curve.name)
                if list(curve.steps) != steps:
                    yield f"the curve {curve.name} has the steps {curve.steps}, not {steps}"
        self.compared["metric values"] += len(values)
        self.compared["reward groups"] += len(found)

    def _checkpoint(self, row: Checkpoint, reference: Path) -> Iterator[str]:
        directory = self._system.artifacts / row.key
        missing = [one["name"] for one in row.manifest["files"] if not (directory / one["name"]).is_file()]
        if missing or not (directory / MANIFEST_FILE).is_file():
            yield f"checkpoint {row.key} lacks {missing or MANIFEST_FILE}"
            return
        if row.step == 0 and not reference.is_dir():
            return  # paused before the first step
        for file in sorted(reference.glob("*.safetensors")):
            found, wanted = load_file(directory / file.name), load_file(file)
            different = [
                name for name in wanted.keys() | found.keys()
                if name not in wanted or name not in found or not _identical(found[name], wanted[name])
            ]  # fmt: skip
            self.compared["tensors of checkpoints"] += len(wanted)
            if different:
                yield f"{row.key}/{file.name}: {len(different)} tensors differ, such as {sorted(different)[0]}"

    def _pictures_and_scores(self) -> Iterator[str]:
        with self._database.transaction() as session:
            done = session.scalars(select(Generation).where(Generation.status == JobStatus.SUCCEEDED)).all()
            images = session.scalars(select(GenerationImage).order_by(GenerationImage.number)).all()
            scores = session.scalars(select(Score).where(Score.status == JobStatus.SUCCEEDED)).all()
            scored = session.scalars(select(ScorePicture).order_by(ScorePicture.number)).all()
        drawn = self._references.pictures([(one.spec, dict(self._drawn(one))) for one in done], REWARDS)
        for generation, (wanted, values) in zip(done, drawn, strict=True):
            found = [image.sha256 for image in images if image.generation_id == generation.id]
            self.compared["pictures"] += len(wanted)
            if found != wanted:
                differ = sum(a != b for a, b in zip(found, wanted, strict=False))
                yield f"generation {generation.id}: {len(found)} of {len(wanted)} pictures, {differ} of them differ"
            for score in (one for one in scores if one.spec["generation"] == str(generation.id)):
                told = [picture.values for picture in scored if picture.score_id == score.id]
                self.compared["scored pictures"] += len(told)
                if [[one["value"] for one in of_picture or ()] for of_picture in told] != values:
                    yield f"score {score.id}: {len(told)} of {len(values)} pictures, or other values"

    def _evaluations(self) -> Iterator[str]:
        with self._database.transaction() as session:
            rows = session.scalars(select(Evaluation).where(Evaluation.status == JobStatus.SUCCEEDED)).all()
            for row in rows:
                benchmark = answers.benchmark_of(session, row)
                job = {"spec": row.spec, "benchmark": benchmark, "judge": row.judge, "drawn": (), "done": ()}
                wanted = self._references.judged(EvaluationJob.model_validate(job))
                own = (EvaluationPicture.evaluation_id == row.id, EvaluationAnswer.evaluation_id == row.id)
                pictures = session.scalars(select(EvaluationPicture).where(own[0])).all()
                said = session.scalars(select(EvaluationAnswer).where(own[1])).all()
                self.compared["pictures that were evaluated"] += len(pictures)
                hashes = {(one.index, one.image): one.sha256 for one in pictures}
                scores = {(one.index, one.image, one.number): tuple(one.scores or ()) for one in said}
                about = f"evaluation {row.id}"
                yield from (f"{about}: {one}" for one in _compare("pictures", hashes, wanted.pictures))
                yield from (f"{about}: {one}" for one in _compare("answers", scores, wanted.answers))
                for one in pictures:
                    expected = wanted.rewards.get((one.index, one.image), {})
                    if one.rewards != pytest.approx(expected, abs=_ROUNDING):
                        yield f"{about}: picture {one.index}_{one.image} has {one.rewards}, not {expected}"

    def _drawn(self, generation: Generation) -> Iterator[tuple[str, Path | None]]:
        for name in generation.spec["checkpoints"]:
            if name == "base":
                yield name, None
                continue
            with self._database.transaction() as session:
                row = session.get_one(Checkpoint, uuid.UUID(name))
                run = session.get_one(Run, row.run_id)
            yield name, self._reference(run).checkpoint(row.step)

    def _leases(self) -> Iterator[str]:
        with self._database.transaction() as session:
            for model in _JOBS.values():
                for row in session.scalars(select(model)):
                    if row.status in HELD or row.lease_owner is not None or row.lease_expires_at is not None:
                        yield f"{model.KIND} {row.id} ({row.status}) is held by {row.lease_owner}"

    def _queues(self) -> Iterator[str]:
        with redis.Redis(unix_socket_path=self._system.broker_socket) as valkey:
            if not _soon(lambda: not any(valkey.llen(queue) for queue in QUEUES)):
                yield f"messages left: { ({queue: valkey.llen(queue) for queue in QUEUES}) }"

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
            orphans = collection.find_orphans(database)
            with database.transaction() as session:
                owners = {f"{kind}s/{id}" for kind, job in _JOBS.items() for id in session.scalars(select(job.id))}
            yield from (f"find_orphans takes {one}, whose job exists" for one in owners.intersection(orphans))
            self.compared["orphans of deleted jobs, collected"] += len(orphans)
            collection.collect_garbage(database)
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
    """After the system has stopped: processes of it that still run, and sockets that still lie about."""
    known = list(processes)
    _soon(lambda: not any(alive(*one) for one in known))
    found = [f"process {pid} still runs" for pid, began in known if alive(pid, began)]
    for server in ("postgres", "valkey"):
        if (system.machines[0] / server / "sockets").is_symlink():
            found.append(f"the sockets of {server} still lie about")
    return found


def empty_store(system: System, users: Users) -> list[str]:
    """Delete every run, and tell what the store still has of runs."""
    with Client(system.stack.url, patience=60.0) as client:
        for run in list(client.runs()):  # newest first: those that started from others go before them
            client.delete_run(run.id)
    database = connect(system.settings())

    def collected() -> bool:
        collection.collect_garbage(database)
        with database.transaction() as session:
            return session.scalar(select(Garbage.prefix).limit(1)) is None

    try:
        _soon(collected)  # a worker may be at some of it
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
    bad += [row.type for row in rows if row.type == "picture_rejected"]
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


def _newest(session: Session, model: Any, run: uuid.UUID, key: tuple[str, ...]) -> dict[Any, Any]:
    """The rows of a run by key, the newest attempt's where several wrote the same."""
    rows = session.scalars(select(model).where(model.run_id == run).order_by(model.attempt))
    return {tuple(getattr(row, name) for name in key): row for row in rows}


def _attempts_by_step(groups: dict[Any, Any]) -> dict[int, set[int]]:
    found: dict[int, set[int]] = defaultdict(set)
    for key, row in groups.items():
        found[key[0]].add(row.attempt)
    return found


def _single(values: list[float | None]) -> list[float | None]:
    """As the database keeps them: single precision."""
    return [None if value is None else float(np.float32(value)) for value in values]


def _compare(what: str, found: dict[Any, Any], wanted: dict[Any, Any]) -> Iterator[str]:
    if missing := sorted(wanted.keys() - found.keys()):
        yield f"{len(missing)} {what} are missing, such as {missing[0]}"
    if extra := sorted(found.keys() - wanted.keys()):
        yield f"{len(extra)} {what} too many, such as {extra[0]}"
    if differ := sorted(key for key in found.keys() & wanted.keys() if found[key] != wanted[key]):
        first = differ[0]
        yield f"{len(differ)} {what} differ, such as {first}: {found[first]} instead of {wanted[first]}"


def _identical(one: "np.ndarray[Any, Any]", other: "np.ndarray[Any, Any]") -> bool:
    return one.dtype == other.dtype and one.shape == other.shape and one.tobytes() == other.tobytes()


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
    """Keys of the store's files that rows name."""
    with database.transaction() as session:
        named = (Sample.key, GenerationImage.key, ScorePicture.key, EvaluationPicture.key)
        keys = {key for column in named for key in session.scalars(select(column))}
        for row in session.scalars(select(Checkpoint).where(Checkpoint.deleted_at.is_(None))):
            keys |= {f"{row.key}/{name}" for name in (*(file["name"] for file in row.manifest["files"]), MANIFEST_FILE)}
    return keys


def _stored(artifacts: Path) -> dict[str, int]:
    """Files of the store, with their sizes."""
    return {
        path.relative_to(artifacts).as_posix(): path.stat().st_size for path in artifacts.rglob("*") if path.is_file()
    }
