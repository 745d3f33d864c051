"""What a woken worker does: take jobs until none is left. A message carries no work, only the news of some."""

import os
import secrets
import socket
import threading
from collections.abc import Callable
from functools import partial
from typing import Any

from celery.signals import worker_ready, worker_shutdown, worker_shutting_down

from service.core.settings import Settings
from service.db.models import Evaluation, Generation, Run, Score
from service.db.session import Database, connect
from worker.celery_app import app
from worker.jobs import generation, scoring, supervisor
from worker.jobs.claim import Claim, JobType, claim_next
from worker.jobs.log_context import install as install_logging
from worker.jobs.log_context import working_on
from worker.jobs.registry import WORKS
from worker.maintenance.housekeeping import Housekeeping
from worker.monitoring import devices

_settings = Settings()
database = connect(_settings, idle_seconds=_settings.lease_seconds)
stopping = threading.Event()
name = f"{socket.gethostname()}:{os.getpid()}:{secrets.token_hex(4)}"
"""Unique for every process that ever ran: a restarted worker must not mistake an old lease for its own."""
_RUNNERS: tuple[tuple[JobType, Callable[[Database, Claim, threading.Event], None]], ...] = (
    (Run, partial(supervisor.supervise, work=WORKS["train"])),
    (Evaluation, partial(supervisor.supervise, work=WORKS["evaluate"])),
    (Generation, generation.generate),
    (Score, scoring.score),
)
install_logging(name, database.settings.log_level)

_housekeeping: Housekeeping | None = None


@app.task(name="jobs.wake")  # type: ignore[untyped-decorator]
def wake(queue: str, *_: Any) -> None:
    """Run the jobs of a queue, one of each kind in turn, until none is claimable."""
    found = True
    while found:
        found = False
        for job, run in _RUNNERS:
            if queue == job.QUEUE and not stopping.is_set() and (claim := _claim(job)):
                found = True
                with working_on(claim):
                    run(database, claim, stopping)


def _claim(job: JobType) -> Claim | None:
    return claim_next(database, job, name, devices.count())


@worker_ready.connect  # type: ignore[untyped-decorator]
def _begin(sender: Any, **_: Any) -> None:
    global _housekeeping
    queue = next(iter(sender.app.amqp.queues.consume_from))
    _housekeeping = Housekeeping(database, app, name, queue)
    _housekeeping.start()


@worker_shutting_down.connect  # type: ignore[untyped-decorator]
def _drain(**_: Any) -> None:
    """SIGTERM: the running job is given up, and taken again by another worker."""
    stopping.set()


@worker_shutdown.connect  # type: ignore[untyped-decorator]
def _end(**_: Any) -> None:
    if _housekeeping is not None:
        _housekeeping.stop()
    database.close()
