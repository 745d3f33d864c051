"""Two real workers share a queue, whatever becomes of the messages and whatever their clocks say."""

import contextlib
import itertools
import json
import os
import signal
import subprocess
import sys
import threading
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import redis
from kombu import Connection
from sqlalchemy import func, select

from service import jobs as service_jobs
from service.contracts.catalog import load_catalog
from service.contracts.plan import make_plan
from service.contracts.runs import RunSpec
from service.contracts.status import JobStatus
from service.db.models import Attempt, Checkpoint, LogChunk, Metric, RewardGroup, Run, RunEvent, Sample, Worker
from service.db.session import Database, connect
from service.queue import Queue
from service.settings import Settings

Eventually = Callable[[Callable[[], object]], None]

HOURS = 3600.0
LEASE_SECONDS = 3.0
ROOT = Path(__file__).parents[2]


@dataclass
class Workers:
    """Worker processes on one database, broker and directory."""

    database: Database
    running: list["subprocess.Popen[bytes]"] = field(default_factory=list)

    def start(self, clock_wrong_by: float | None = None) -> "subprocess.Popen[bytes]":
        """A training worker process."""
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
            "CLOCK_WRONG_BY": "" if clock_wrong_by is None else str(clock_wrong_by),
        }
        arguments = ["-m", "celery", "--app", "tests.faults.scripted_worker", "worker", "--queues", "train"]
        arguments += ["--hostname", f"{len(self.running)}@%h", "--loglevel", "INFO"]
        arguments += ["--without-mingle", "--without-gossip", "--without-heartbeat"]
        with self.log(len(self.running)).open("ab") as log:
            process = subprocess.Popen(
                [sys.executable, *arguments],
                env=environment,
                cwd=ROOT,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self.running.append(process)
        return process

    def log(self, number: int) -> Path:
        return self.database.settings.data_dir / f"worker-{number}.log"

    def stop(self) -> None:
        for process in self.running:
            process.terminate()
        for process in self.running:
            process.wait(60)


@pytest.fixture
def workers(new_database_url: str, broker_url: str, tmp_path: Path) -> Iterator[Workers]:
    """Workers on a database of their own, and an empty broker."""
    with Connection(broker_url) as connection:
        connection.default_channel.client.flushall()
    database = connect(Settings(database_url=new_database_url, broker_url=broker_url, data_dir=tmp_path))
    started = Workers(database)
    yield started
    started.stop()
    database.close()


@pytest.fixture
def valkey(broker_url: str) -> Iterator["redis.Redis[bytes]"]:
    with Connection(broker_url) as connection:
        yield connection.default_channel.client


def add(database: Database, behaviour: str = "finishes") -> uuid.UUID:
    """A queued run whose child will behave like that."""
    spec = RunSpec(name=behaviour)
    values: dict[str, Any] = {"model": spec.model, "algorithm": "g2rpo", "requested": {}, "spec_version": 1}
    values |= {"plan": make_plan(spec, load_catalog()).model_dump(mode="json", exclude={"spec"})}
    values |= {"seed": spec.training.seed, "max_steps": spec.training.max_steps}
    run = Run(spec=spec.model_dump(mode="json"), **values)
    with database.transaction() as session:
        session.add(run)
    return run.id


def rows(database: Database, model: type[Any]) -> list[Any]:
    with database.transaction() as session:
        return list(session.scalars(select(model)))


def run_of(database: Database, id: uuid.UUID) -> Run:
    with database.transaction() as session:
        return session.get_one(Run, id)


@contextlib.contextmanager
def noise(database: Database, valkey: "redis.Redis[bytes]") -> Iterator[None]:
    """While the block runs: messages doubled many times, then lost, the broker's memory with them."""
    ended = threading.Event()

    def disturb() -> None:
        queue = Queue(database.settings)
        for round_ in itertools.count():
            for _ in range(20):
                queue.send("runs.wake", uuid.uuid4())
            if ended.wait(0.3):
                break
            valkey.delete("train")
            if round_ % 3 == 2:
                valkey.flushall()
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
    def test_fifty_jobs_run_once_each_though_messages_are_doubled_and_lost(
        self, workers: Workers, valkey: Any, eventually: Eventually
    ) -> None:
        database = workers.database
        ids = {add(database) for _ in range(50)}
        workers.start()
        workers.start()

        with noise(database, valkey):
            eventually(lambda: {run.status for run in rows(database, Run)} == {JobStatus.SUCCEEDED})

        assert {run.id: run.attempt for run in rows(database, Run)} == dict.fromkeys(ids, 1)
        attempts = rows(database, Attempt)
        assert Counter(attempt.run_id for attempt in attempts) == Counter(ids)
        for model, of_each in ((Metric, 6), (RewardGroup, 3), (Sample, 1), (Checkpoint, 1), (LogChunk, 1)):
            assert Counter(row.run_id for row in rows(database, model)) == dict.fromkeys(ids, of_each), model
        said = [row.data["status"] for row in rows(database, RunEvent) if row.type == "status"]
        assert Counter(said) == {"starting": 50, "running": 50, "succeeded": 50}

        by_worker = {name: [one for one in attempts if one.worker == name] for name in {a.worker for a in attempts}}
        assert len(by_worker) == 2
        for own in by_worker.values():
            in_order = sorted(own, key=lambda one: one.started_at)
            assert all(one.ended_at <= other.started_at for one, other in itertools.pairwise(in_order))


class TestClocks:
    """One worker's clock is five hours fast, the other's seven hours slow."""

    @pytest.fixture
    def skewed(self, workers: Workers, eventually: Eventually) -> Workers:
        workers.start(5 * HOURS)
        workers.start(-7 * HOURS)
        eventually(lambda: len(rows(workers.database, Worker)) == 2)
        return workers

    def test_their_clocks_are_wrong_indeed(self, skewed: Workers) -> None:
        lines = [skewed.log(number).read_text().splitlines() for number in (0, 1)]
        told = [next(json.loads(line)["time"] for line in own if line.startswith("{")) for own in lines]
        fast, slow = (datetime.fromisoformat(time) for time in told)
        assert timedelta(hours=11) < fast - slow < timedelta(hours=13)

    def test_a_lease_holds_as_long_as_it_is_renewed(self, skewed: Workers, eventually: Eventually) -> None:
        database = skewed.database
        ids = [add(database, "cancels"), add(database, "cancels")]
        eventually(lambda: {run.status for run in rows(database, Run)} == {JobStatus.RUNNING})

        with database.transaction() as session:
            first = session.scalars(select(func.min(Run.lease_expires_at))).one()
        # Three leases later each still has its own.
        eventually(
            lambda: min(run.lease_expires_at for run in rows(database, Run)) > first + timedelta(seconds=9)
        )  # fmt: skip
        assert {run.attempt for run in rows(database, Run)} == {1}
        with database.transaction() as session:
            left = session.scalars(select(Run.lease_expires_at - func.now())).all()
        assert all(timedelta() < one <= timedelta(seconds=LEASE_SECONDS) for one in left)

        for id in ids:
            with database.transaction() as session:
                service_jobs.cancel(session, Run, id)
        eventually(lambda: {run.status for run in rows(database, Run)} == {JobStatus.CANCELLED})

    @pytest.mark.parametrize("killed", [0, 1], ids=["the fast one dies", "the slow one dies"])
    def test_the_dead_ones_job_is_taken_by_the_other_when_the_lease_is_over(
        self, skewed: Workers, eventually: Eventually, killed: int
    ) -> None:
        database = skewed.database
        dying, other = skewed.running[killed], skewed.running[1 - killed]
        os.kill(other.pid, signal.SIGSTOP)
        id = add(database, "cancels")
        eventually(lambda: run_of(database, id).status is JobStatus.RUNNING)
        before = run_of(database, id).lease_expires_at
        dying.kill()
        os.kill(other.pid, signal.SIGCONT)

        eventually(lambda: run_of(database, id).attempt == 2)
        first, second = sorted(rows(database, Attempt), key=lambda one: one.number)
        assert before <= first.ended_at <= second.started_at
        assert (first.outcome, first.lost) == ("interrupted", True)
        assert [str(pid) in worker.worker for pid, worker in ((dying.pid, first), (other.pid, second))] == [True] * 2
        with database.transaction() as session:
            service_jobs.cancel(session, Run, id)

    def test_results_and_times_are_the_databases(self, skewed: Workers, eventually: Eventually) -> None:
        database = skewed.database
        for _ in range(4):
            add(database)
        eventually(lambda: {run.status for run in rows(database, Run)} == {JobStatus.SUCCEEDED})

        times = [time for run in rows(database, Run) for time in (run.started_at, run.ended_at)]
        times += [time for one in rows(database, Attempt) for time in (one.started_at, one.ended_at)]
        times += [worker.heartbeat_at for worker in rows(database, Worker)]
        times += [event.time for event in rows(database, RunEvent)]
        with database.transaction() as session:  # last: workers report while the rows are read
            now = session.scalars(select(func.now())).one()
        assert all(timedelta() <= now - time < timedelta(minutes=5) for time in times)
        assert {run.attempt for run in rows(database, Run)} == {1}
