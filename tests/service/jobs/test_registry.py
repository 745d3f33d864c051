"""A job kind needs only one entry in the registry, which all generic code uses."""

import asyncio
import uuid
from collections.abc import Iterator

import pytest
from fastapi import Request, Response
from fastapi.testclient import TestClient
from kombu import Connection
from sqlalchemy import delete

from service.api.idempotency import IdempotentRequest
from service.api.jobs import cancel
from service.auth.errors import TooManyOpenJobs
from service.auth.quota import check_open_jobs
from service.contracts.status import JobStatus
from service.db.models import ApiKey
from service.db.session import Database
from service.jobs import views
from service.jobs.long_poll import JobWaiter, wait_for_end
from service.jobs.queue import Queue
from service.jobs.registry import JOBS, queues
from service.local.doctor import jobs as doctor
from service.observability.checks import Degraded
from tests import made_up_job
from tests.made_up_job import Sketch


@pytest.fixture
def sketch(database: Database, monkeypatch: pytest.MonkeyPatch) -> Iterator[Sketch]:
    """A queued job of a kind whose only entry is in the registry."""
    monkeypatch.setitem(JOBS, Sketch.KIND, Sketch)
    with made_up_job.table(database):
        row = Sketch(requested={}, spec={}, spec_version=1)
        with database.transaction() as session:
            session.add(row)
        yield row


def test_a_new_kind_is_in_metrics_and_health(client: TestClient, sketch: Sketch) -> None:
    metrics = client.get("/metrics").text
    assert 'g2rpo_jobs{kind="sketch",status="queued"} 1.0' in metrics
    assert 'g2rpo_workers{queue="sketching"} 0.0' in metrics
    assert "0 for sketching" in client.get("/readyz").json()["checks"][-1]["detail"]


def test_a_new_kind_is_in_the_doctor(database: Database, sketch: Sketch) -> None:
    assert "1 sketchs waiting" in doctor.queues(database)
    with pytest.raises(Degraded, match="sketching"):
        doctor.workers(database)


def test_a_new_kind_sends_messages_to_its_queue(database: Database, sketch: Sketch) -> None:
    assert "sketching" in queues()
    with Connection(database.settings.broker_url) as connection:
        waiting = connection.SimpleQueue("sketching")
        waiting.clear()
        assert Queue(database.settings).send(Sketch, sketch.id)
        message = waiting.get(timeout=30)
        message.ack()
    assert message.decode()[0] == ["sketching", str(sketch.id)]


def test_a_new_kind_counts_towards_the_quota(database: Database, sketch: Sketch) -> None:
    key = ApiKey(name="one job", prefix="one", hash="", scopes=["write"], max_open_jobs=1)
    with database.transaction() as session:
        session.add(key)
        session.flush()
        session.get_one(Sketch, sketch.id).created_by = key.id
    with database.transaction() as session, pytest.raises(TooManyOpenJobs):
        check_open_jobs(session, database.settings, key.id)
    with database.transaction() as session:
        session.execute(delete(Sketch))
        session.execute(delete(ApiKey))


def test_a_job_of_a_new_kind_is_found_awaited_and_cancelled(database: Database, sketch: Sketch) -> None:
    without_key = IdempotentRequest(Request({"type": "http"}), uuid.UUID(int=0), None, None)
    with database.sessions() as session:
        assert views.queue_position(session, views.find(session, Sketch, sketch.id)) == 1
        cancel(session, Sketch, sketch.id, without_key)
        assert views.find(session, Sketch, sketch.id).status is JobStatus.CANCELLED
    waiter = JobWaiter(database.engine)
    assert asyncio.run(wait_for_end("wait=1", Response(), database, waiter, Sketch, sketch.id))
