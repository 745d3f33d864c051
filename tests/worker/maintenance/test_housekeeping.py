"""Heartbeats, expired leases, missed jobs and idle models."""

import contextlib
import signal
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from celery import Celery
from kombu.exceptions import OperationalError
from sqlalchemy import func, select, text, update
from sqlalchemy.exc import DBAPIError

from service.contracts.status import JobStatus
from service.db.models import Run, Worker
from service.db.session import Database, connect
from service.local import valkey
from tests.worker.jobs.conftest import with_settings
from worker.celery_app import make_app
from worker.engine.inference.generator import Generator
from worker.engine.inference.model_cache import MODEL_CACHE, ModelCache
from worker.engine.models import FlowModel
from worker.jobs.claim import move
from worker.maintenance import housekeeping
from worker.maintenance.housekeeping import Housekeeping, heartbeat, reconcile, release_models


@pytest.fixture
def app(impatient: Database) -> Iterator[Celery]:
    made = make_app(impatient.settings)
    with made.connection_for_write() as connection:
        connection.default_channel.queue_declare("train")
        connection.default_channel.queue_purge("train")
    yield made
    made.close()


def messages(app: Celery) -> int:
    with app.connection_for_write() as connection:
        return int(connection.default_channel.queue_declare("train").message_count)


def expire(database: Database) -> None:
    with database.transaction() as session:
        session.execute(update(Run).values(lease_expires_at=func.now() - func.make_interval(0, 0, 0, 0, 0, 0, 1)))


class TestReconcile:
    def test_expired_lease_interrupts_the_run_and_wakes_a_worker(
        self, jobs: Any, impatient: Database, app: Celery
    ) -> None:
        id = jobs.add()
        jobs.claim()
        expire(impatient)

        reconcile(impatient, app)

        assert jobs.run(id).status is JobStatus.INTERRUPTED
        assert (jobs.attempt(id).outcome, jobs.attempt(id).lost) == ("interrupted", True)
        assert messages(app) == 1
        assert jobs.claim().attempt == 2

    def test_hanging_worker_does_not_block_others(
        self, jobs: Any, impatient: Database, app: Celery, eventually: Callable[[Callable[[], object]], None]
    ) -> None:
        hanging = connect(impatient.settings, idle_seconds=0.2)
        with contextlib.suppress(DBAPIError), hanging.transaction() as session:
            session.execute(select(func.pg_advisory_xact_lock(text(str(housekeeping._LOCK)))))
            id = jobs.add()
            jobs.claim()
            expire(impatient)

            def given_up() -> bool:
                reconcile(impatient, app)
                return jobs.run(id).status is JobStatus.INTERRUPTED

            eventually(given_up)
        hanging.close()

    def test_hanging_broker_times_out(
        self, jobs: Any, impatient: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(housekeeping, "_BROKER_SECONDS", 0.2)
        server = valkey.start(tmp_path / "valkey")
        app = make_app(impatient.settings.model_copy(update={"broker_url": server.url}))
        id = jobs.add()
        jobs.claim()
        expire(impatient)
        server.process.send_signal(signal.SIGSTOP)
        try:
            with pytest.raises(OperationalError, match="Timeout"):
                reconcile(impatient, app)
        finally:
            server.process.send_signal(signal.SIGCONT)
            app.close()
            server.stop()

        assert jobs.run(id).status is JobStatus.INTERRUPTED

    def test_valid_lease_is_unchanged(self, jobs: Any, impatient: Database, app: Celery) -> None:
        id = jobs.add()
        jobs.claim()

        reconcile(impatient, app)

        assert jobs.run(id).status is JobStatus.STARTING
        assert messages(app) == 0

    def test_last_lost_attempt_fails_the_run(self, jobs: Any, impatient: Database, app: Celery) -> None:
        id = jobs.add()
        for _ in range(impatient.settings.max_attempts):
            jobs.claim()
            expire(impatient)
            reconcile(impatient, app)

        # The next attempt ingests unread events and then fails the run.
        assert jobs.run(id).losses == impatient.settings.max_attempts
        jobs.supervise(jobs.claim()).join()
        run = jobs.run(id)
        assert run.status is JobStatus.FAILED
        assert run.error["code"] == "lost"

    @pytest.mark.parametrize(
        ("asked", "becomes"),
        [(JobStatus.CANCELLING, JobStatus.CANCELLED), (JobStatus.PAUSING, JobStatus.PAUSED)],
    )
    def test_requested_stop_applies_to_a_lost_run(
        self, jobs: Any, impatient: Database, app: Celery, asked: JobStatus, becomes: JobStatus
    ) -> None:
        id = jobs.add()
        jobs.claim()
        with impatient.transaction() as session:
            session.get_one(Run, id).move_to(asked)
        expire(impatient)

        reconcile(impatient, app)

        assert jobs.run(id).status is becomes

    def test_wake_ups_do_not_pile_up(self, jobs: Any, impatient: Database, app: Celery) -> None:
        jobs.add()
        for _ in range(3):
            reconcile(impatient, app)

        assert messages(app) == 1


class TestHeartbeat:
    def test_worker_has_one_row_with_its_devices(self, impatient: Database) -> None:
        for _ in range(2):
            heartbeat(impatient, "host:1", "train")

        with impatient.transaction() as session:
            [worker] = session.scalars(select(Worker)).all()
        assert (worker.name, worker.queue) == ("host:1", "train")
        assert worker.device
        assert worker.heartbeat_at > worker.started_at


class TestReleaseModels:
    """A generation's model while runs start and end; the caller specifies the GPU."""

    @pytest.fixture(scope="class")
    def model(self) -> FlowModel:
        return Generator("cpu").load("shapes-flux")

    @pytest.fixture
    def cache(self, model: FlowModel) -> ModelCache:
        cache = ModelCache()
        cache.get(FlowModel, model.entry.model_dump_json(), lambda: model, FlowModel.weight_bytes)  # type: ignore[type-abstract]
        return cache

    @pytest.mark.parametrize(
        ("shared", "status", "goes"),
        [
            (None, JobStatus.STARTING, False),
            (False, JobStatus.STARTING, True),
            (True, JobStatus.STARTING, True),
            (None, JobStatus.RUNNING, False),
            (False, JobStatus.RUNNING, False),
            (True, JobStatus.RUNNING, True),
            (True, JobStatus.QUEUED, False),
        ],
    )
    def test_models_are_released_for_a_run(
        self, jobs: Any, impatient: Database, cache: ModelCache, shared: bool | None, status: JobStatus, goes: bool
    ) -> None:
        jobs.add()
        if status is not JobStatus.QUEUED:
            move(impatient, jobs.claim(), status)

        release_models(impatient, cache, shared, burst_seconds=0.0)

        assert (cache.release(0.0) == []) is goes

    def test_burst_of_requests_keeps_models(self, jobs: Any, impatient: Database, cache: ModelCache) -> None:
        jobs.add()
        jobs.claim()

        release_models(impatient, cache, True, burst_seconds=1e6)

        assert cache.release(0.0) == ["shapes-flux"]

    def test_idle_worker_releases_models(
        self, impatient: Database, app: Celery, eventually: Callable[[Callable[[], object]], None]
    ) -> None:
        quick = with_settings(impatient, reconcile_seconds=0.01, model_cache_seconds=0.01)
        transformer = weakref.ref(Generator("cpu", MODEL_CACHE).load("shapes-flux").transformer)
        worker = Housekeeping(quick, app, "host:1", "generate")
        worker.start()

        eventually(lambda: transformer() is None)

        worker.stop()
