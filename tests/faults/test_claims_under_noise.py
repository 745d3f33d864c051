"""Two real workers share a queue despite lost or duplicated messages and wrong clocks."""

import contextlib
import itertools
import json
import os
import signal
import subprocess
import sys
import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import redis
from kombu import Connection
from sqlalchemy import Engine, func, select, text

from service.api.jobs import cancel_job
from service.contracts.catalog import load_catalog
from service.contracts.plan import make_plan
from service.contracts.runs import RunSpec
from service.contracts.status import TERMINAL, JobStatus
from service.core.settings import Settings
from service.db.models import Attempt, Checkpoint, Metric, RewardGroup, Run, Sample, Worker
from service.db.models.run import LogChunk, RunEvent
from service.db.session import Database, connect
from service.jobs.queue import Queue

pytestmark = pytest.mark.long

Eventually = Callable[[Callable[[], object]], None]

HOURS = 3600.0
CLOCKS = {"fast": 5 * HOURS, "slow": -7 * HOURS}
"""Clock error of each worker in seconds."""
LEASE_SECONDS = 3.0
ROOT = Path(__file__).parents[2]


@dataclass
class Workers:
    """Two worker processes on one database, broker and directory, whose clocks are wrong."""

    database: Database
    running: dict[str, "subprocess.Popen[bytes]"] = field(default_factory=dict)

    @property
    def data(self) -> Path:
        """The log file of a worker."""
        return self.database.settings.data_dir

    def start(self, name: str) -> None:
        """Start the worker with the name, a key of CLOCKS."""
        settings = self.database.settings
        environment = {
            **os.environ,
            "G2RPO_DATABASE_URL": settings.database_url,
            "G2RPO_BROKER_URL": settings.broker_url,
            "G2RPO_DATA_DIR": str(settings.data_dir),
            "G2RPO_LEASE_SECONDS": str(LEASE_SECONDS),
            "G2RPO_RENEW_SECONDS": "0.5",
            "G2RPO_RECONCILE_SECONDS": "0.5",
            "G2RPO_DRAIN_SECONDS": "2",
            "CLOCK_WRONG_BY": str(CLOCKS[name]),
        }
        arguments = ["-m", "celery", "--app", "tests.faults.scripted_worker", "worker", "--queues", "train"]
        arguments += ["--hostname", f"{name}@%h", "--loglevel", "INFO"]
        arguments += ["--without-mingle", "--without-gossip", "--without-heartbeat"]
        with self.log(name).open("ab") as log:
            self.running[name] = subprocess.Popen(
                [sys.executable, *arguments],
                env=environment,
                cwd=ROOT,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def start_missing(self, eventually: Eventually) -> None:
        """Start the workers that are not running, and wait until all are ready."""
        for name in CLOCKS:
            if name not in self.running or self.running[name].poll() is not None:
                self.start(name)
        eventually(lambda: {self.name_of(worker.name) for worker in rows(self.database, Worker)} >= set(CLOCKS))

    def name_of(self, worker: str) -> str | None:
        """The process of the worker in a row, or None if it has ended."""
        return next((name for name, one in self.running.items() if f":{one.pid}:" in worker), None)

    def log(self, name: str) -> Path:
        return self.data / f"worker-{name}.log"

    def stop(self) -> None:
        for process in self.running.values():
            process.terminate()
        for process in self.running.values():
            process.wait(60)


@pytest.fixture(scope="module")
def database(
    admin: Engine, template: str, broker_url: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Database]:
    """A database used only by these workers, and an empty broker."""
    with Connection(broker_url) as connection:
        connection.default_channel.client.flushdb()
    name = f"g2rpo_test_{uuid.uuid4().hex}"
    with admin.connect() as connection:
        connection.execute(text(f"CREATE DATABASE {name} TEMPLATE {template}"))
    url = admin.url.set(database=name).render_as_string(hide_password=False)
    database = connect(Settings(database_url=url, broker_url=broker_url, data_dir=tmp_path_factory.mktemp("workers")))
    yield database
    database.close()
    with admin.connect() as connection:
        connection.execute(text(f"DROP DATABASE {name} WITH (FORCE)"))


@pytest.fixture(scope="module")
def eventually(eventually: Eventually) -> Eventually:
    """Wait until a condition holds, with ten queries a second."""

    def wait(condition: Callable[[], object]) -> None:
        def look() -> bool:
            if condition():
                return True
            time.sleep(0.1)
            return False

        eventually(look)

    return wait


@pytest.fixture(scope="module")
def started(database: Database) -> Iterator[Workers]:
    """The workers shared by all tests of the module."""
    workers = Workers(database)
    yield workers
    workers.stop()


@pytest.fixture
def workers(started: Workers, eventually: Eventually) -> Iterator[Workers]:
    """Both workers, running and idle before and after the test."""
    started.start_missing(eventually)
    yield started
    database = started.database
    for run in rows(database, Run):
        if run.status not in TERMINAL:
            with database.transaction() as session:
                cancel_job(session, Run, run.id)
    eventually(lambda: all(run.status in TERMINAL for run in rows(database, Run)))


@pytest.fixture
def valkey(broker_url: str) -> Iterator["redis.Redis[bytes]"]:
    with Connection(broker_url) as connection:
        yield connection.default_channel.client


def add(database: Database, behavior: str = "finishes") -> uuid.UUID:
    """A queued run whose process follows the script."""
    spec = RunSpec(name=behavior)
    values: dict[str, Any] = {"model": spec.model, "algorithm": "g2rpo", "requested": {}, "spec_version": 1}
    values |= {"plan": make_plan(spec, load_catalog()).model_dump(mode="json", exclude={"spec"})}
    values |= {"seed": spec.training.seed, "max_steps": spec.training.max_steps}
    run = Run(spec=spec.model_dump(mode="json"), **values)
    with database.transaction() as session:
        session.add(run)
    return run.id


def rows(database: Database, model: type[Any], of: Collection[uuid.UUID] | None = None) -> list[Any]:
    """All rows, or those of the runs."""
    query = select(model)
    if of is not None:
        query = query.where((model.id if model is Run else model.run_id).in_(of))
    with database.transaction() as session:
        return list(session.scalars(query))


def run_of(database: Database, id: uuid.UUID) -> Run:
    with database.transaction() as session:
        return session.get_one(Run, id)


def attempts_of(database: Database, id: uuid.UUID) -> list[Attempt]:
    return sorted(rows(database, Attempt, [id]), key=lambda one: one.number)


@contextlib.contextmanager
def noise(database: Database, valkey: "redis.Redis[bytes]") -> Iterator[None]:
    """During the block, duplicate messages many times, then delete them together with the memory of the broker."""
    ended = threading.Event()

    def disturb() -> None:
        queue = Queue(database.settings)
        for round_ in itertools.count():
            for _ in range(20):
                queue.send(Run, uuid.uuid4())
            if ended.wait(0.3):
                break
            valkey.delete("train")
            if round_ % 3 == 2:
                valkey.flushdb()
            if ended.wait(0.3):
                break
        queue.close()

    thread = threading.Thread(target=disturb)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


class TestMessages:
    def test_thirty_jobs_run_once_each_despite_duplicated_and_lost_messages(
        self, workers: Workers, valkey: Any, eventually: Eventually
    ) -> None:
        database = workers.database
        with noise(database, valkey):
            ids = {add(database) for _ in range(30)}
            eventually(lambda: {run.status for run in rows(database, Run, ids)} == {JobStatus.SUCCEEDED})

        assert {run.id: run.attempt for run in rows(database, Run, ids)} == dict.fromkeys(ids, 1)
        attempts = rows(database, Attempt, ids)
        assert Counter(attempt.run_id for attempt in attempts) == Counter(ids)
        for model, of_each in ((Metric, 6), (RewardGroup, 3), (Sample, 1), (Checkpoint, 1), (LogChunk, 1)):
            assert Counter(row.run_id for row in rows(database, model, ids)) == dict.fromkeys(ids, of_each), model
        statuses = [row.data["status"] for row in rows(database, RunEvent, ids) if row.type == "status"]
        assert Counter(statuses) == {"starting": 30, "running": 30, "succeeded": 30}

        by_worker = {name: [one for one in attempts if one.worker == name] for name in {a.worker for a in attempts}}
        assert {workers.name_of(worker) for worker in by_worker} == set(CLOCKS)
        for own in by_worker.values():
            in_order = sorted(own, key=lambda one: one.started_at)
            assert all(one.ended_at <= other.started_at for one, other in itertools.pairwise(in_order))


class TestClocks:
    """One worker's clock is five hours fast, the other's seven hours slow."""

    def test_worker_clocks_are_wrong(self, workers: Workers) -> None:
        lines = [workers.log(name).read_text().splitlines() for name in ("fast", "slow")]
        # The newest process, because a worker may have been restarted.
        worker_times = [[json.loads(line)["time"] for line in own if line.startswith("{")][-1] for own in lines]
        fast, slow = (datetime.fromisoformat(time) for time in worker_times)
        assert timedelta(hours=11) < fast - slow < timedelta(hours=13)

    def test_a_renewed_lease_is_valid(self, workers: Workers, eventually: Eventually) -> None:
        database = workers.database
        ids = [add(database, "cancels"), add(database, "cancels")]
        eventually(lambda: {run.status for run in rows(database, Run, ids)} == {JobStatus.RUNNING})

        first = min(run.lease_expires_at for run in rows(database, Run, ids))
        # After the end of its first lease, each worker still holds its job.
        later = first + timedelta(seconds=1.5 * LEASE_SECONDS)
        eventually(lambda: min(run.lease_expires_at for run in rows(database, Run, ids)) > later)
        assert {run.attempt for run in rows(database, Run, ids)} == {1}
        with database.transaction() as session:
            left = session.scalars(select(Run.lease_expires_at - func.now()).where(Run.id.in_(ids))).all()
        assert all(timedelta() < one <= timedelta(seconds=LEASE_SECONDS) for one in left)

        for id in ids:
            with database.transaction() as session:
                cancel_job(session, Run, id)
        eventually(lambda: {run.status for run in rows(database, Run, ids)} == {JobStatus.CANCELLED})

    @pytest.mark.parametrize("killed", CLOCKS)
    def test_a_job_of_a_dead_worker_is_claimed_after_the_lease_expires(
        self, workers: Workers, eventually: Eventually, killed: str
    ) -> None:
        database = workers.database
        (survivor,) = CLOCKS.keys() - {killed}
        dying, other = workers.running[killed], workers.running[survivor]
        os.kill(other.pid, signal.SIGSTOP)
        id = add(database, "cancels")
        eventually(lambda: run_of(database, id).status is JobStatus.RUNNING)
        before = run_of(database, id).lease_expires_at
        dying.kill()
        os.kill(other.pid, signal.SIGCONT)

        eventually(lambda: run_of(database, id).attempt == 2)
        first, second = attempts_of(database, id)
        assert before <= first.ended_at <= second.started_at
        assert (first.outcome, first.lost) == ("interrupted", True)
        assert [workers.name_of(one.worker) for one in (first, second)] == [killed, survivor]

    def test_result_times_come_from_the_database_clock(self, workers: Workers, eventually: Eventually) -> None:
        database = workers.database
        ids = [add(database) for _ in range(4)]
        eventually(lambda: {run.status for run in rows(database, Run, ids)} == {JobStatus.SUCCEEDED})

        times = [time for run in rows(database, Run, ids) for time in (run.started_at, run.ended_at)]
        times += [time for one in rows(database, Attempt, ids) for time in (one.started_at, one.ended_at)]
        times += [worker.heartbeat_at for worker in rows(database, Worker) if workers.name_of(worker.name)]
        times += [event.time for event in rows(database, RunEvent, ids)]
        with database.transaction() as session:  # last, because workers report while the rows are read
            now = session.scalars(select(func.now())).one()
        assert all(timedelta() <= now - time < timedelta(minutes=5) for time in times)
        assert {run.attempt for run in rows(database, Run, ids)} == {1}


def test_draining_worker_saves_its_job_and_another_worker_continues(workers: Workers, eventually: Eventually) -> None:
    database = workers.database
    id = add(database, "pauses")
    eventually(lambda: run_of(database, id).status is JobStatus.RUNNING)
    leaving = workers.name_of(attempts_of(database, id)[0].worker)
    assert leaving is not None
    workers.running[leaving].terminate()

    eventually(lambda: run_of(database, id).status is JobStatus.SUCCEEDED)
    assert workers.running[leaving].wait(60) == 0
    first, second = attempts_of(database, id)
    assert (first.outcome, first.lost) == ("interrupted", False)
    assert (second.outcome, second.resumed_at) == ("succeeded", 1)
    assert workers.name_of(second.worker) not in (None, leaving)
