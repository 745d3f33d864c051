"""A job kind needs one module and one entry in the registry, which housekeeping, claims and the runner use."""

import threading
from collections.abc import Iterator
from typing import Any

import pytest
from celery import Celery
from sqlalchemy import func, update

from service.contracts.status import JobStatus
from service.db.session import Database
from tests import made_up_job
from tests.made_up_job import Sketch
from tests.worker.jobs.conftest import with_settings
from worker.celery_app import make_app
from worker.jobs.claim import claim_next
from worker.jobs.in_process import InProcess, InProcessJobType
from worker.jobs.job_runner import run_job
from worker.jobs.registry import JOB_TYPES, job_types
from worker.maintenance.garbage_collection import find_leftovers, find_orphans
from worker.maintenance.housekeeping import reconcile


class SketchJobType(InProcessJobType):
    """The content of the module of a new job kind."""

    model = Sketch

    def work(self, execution: InProcess) -> None:
        with execution.database.transaction() as session:
            execution.record_progress(session, 1, 1, "rollout")
        execution.heartbeat()


@pytest.fixture
def sketch(impatient: Database, monkeypatch: pytest.MonkeyPatch) -> Iterator[Sketch]:
    """A queued job of a kind whose only entry is in the registry."""
    monkeypatch.setitem(JOB_TYPES, Sketch.KIND, SketchJobType())
    with made_up_job.table(impatient):
        row = Sketch(requested={}, spec={}, spec_version=1)
        with impatient.transaction() as session:
            session.add(row)
        yield row


@pytest.fixture
def app(impatient: Database) -> Iterator[Celery]:
    made = make_app(impatient.settings)
    with made.connection_for_write() as connection:
        connection.default_channel.queue_declare(Sketch.QUEUE)
        connection.default_channel.queue_purge(Sketch.QUEUE)
    yield made
    made.close()


def read(database: Database, id: Any) -> Sketch:
    with database.transaction() as session:
        return session.get_one(Sketch, id)


def test_its_jobs_are_claimed_and_run(impatient: Database, sketch: Sketch) -> None:
    [job_type] = job_types(Sketch.QUEUE)
    claim = claim_next(impatient, job_type, "worker:1")
    assert claim is not None

    run_job(impatient, claim, threading.Event())

    row = read(impatient, sketch.id)
    assert (row.status, row.error, row.progress and row.progress["step"]) == (JobStatus.SUCCEEDED, None, 1)


def test_its_lost_jobs_are_recovered_and_wake_its_workers(impatient: Database, sketch: Sketch, app: Celery) -> None:
    assert claim_next(impatient, JOB_TYPES[Sketch.KIND], "worker:1") is not None
    with impatient.transaction() as session:
        session.execute(update(Sketch).values(lease_expires_at=func.now() - func.make_interval(0, 0, 0, 0, 0, 0, 1)))

    reconcile(impatient, app)

    row = read(impatient, sketch.id)
    assert (row.status, row.losses) == (JobStatus.INTERRUPTED, 1)
    with app.connection_for_write() as connection:
        assert connection.default_channel.queue_declare(Sketch.QUEUE).message_count == 1


def test_its_artifacts_belong_to_its_rows(impatient: Database, sketch: Sketch, tmp_path: Any) -> None:
    (tmp_path / "file").write_bytes(b"a sketch")
    impatient.artifacts.put_file(tmp_path / "file", f"{Sketch.FOLDER}/{sketch.id}/1/image.png")
    eager = with_settings(impatient, orphan_seconds=-60.0)

    assert find_leftovers(eager) == []
    assert find_orphans(eager) == []
    with impatient.transaction() as session:
        session.delete(session.get_one(Sketch, sketch.id))
    assert find_orphans(eager) == [f"{Sketch.FOLDER}/{sketch.id}"]
