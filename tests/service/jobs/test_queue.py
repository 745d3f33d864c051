"""Messages that wake workers."""

import socket
import time
import uuid

import pytest
from kombu import Connection

from service.core.settings import Settings
from service.db.models import Evaluation, Generation, Job, Run, Score
from service.jobs.queue import Queue


@pytest.mark.parametrize(
    ("kind", "queue"), [(Run, "train"), (Generation, "generate"), (Evaluation, "evaluate"), (Score, "generate")]
)
def test_message_goes_to_the_queue_of_the_kind(settings: Settings, kind: type[Job], queue: str) -> None:
    job = uuid.uuid4()
    with Connection(settings.broker_url) as connection:
        waiting = connection.SimpleQueue(queue)
        waiting.clear()
        assert Queue(settings).send(kind, job)
        message = waiting.get(timeout=30)
        message.ack()
    assert message.headers["task"] == "jobs.wake"
    assert message.decode()[0] == [queue, str(job)]


def test_unreachable_broker_returns_false(settings: Settings) -> None:
    queue = Queue(settings.model_copy(update={"broker_url": "redis://127.0.0.1:1/0"}))
    assert queue.send(Run, uuid.uuid4()) is False


def test_silent_broker_times_out(settings: Settings) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"redis://127.0.0.1:{silent.getsockname()[1]}/0"
        began = time.monotonic()
        assert Queue(settings.model_copy(update={"broker_url": url})).send(Run, uuid.uuid4()) is False
    assert time.monotonic() - began < 10
