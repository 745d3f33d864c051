"""What a woken worker does: take jobs until none is left. A message carries no work, only the news of some."""

import os
import secrets
import socket
import threading
from collections.abc import Callable
from typing import Any

from celery.signals import worker_ready, worker_shutdown, worker_shutting_down

from service.core.settings import Settings
from service.db.models import Evaluation, Generation, Run, Score
from service.db.session import Database, connect
from worker.celery_app import EVALUATE, TRAIN, app
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
_SERVED: tuple[tuple[JobType, Callable[[Database, Claim, threading.Event], None]], ...] = (
    (Generation, generation.generate),
    (Score, scoring.score),
)
"""The jobs that the worker's own process does, by models that it keeps loaded."""
install_logging(name, database.settings.log_level)

_housekeeping: Housekeeping | None = None


@app.task(name="runs.wake")  # type: ignore[untyped-decorator]
def wake_runs(*_: Any) -> None:
    """Take alignment runs, one after the other, until none is claimable."""
    while not stopping.is_set() and (claim := claim_next(database, Run, name, devices.count())):
        with working_on(claim):
            supervisor.supervise(database, claim, stopping, WORKS[TRAIN])


@app.task(name="generations.wake")  # type: ignore[untyped-decorator]
def wake_generations(*_: Any) -> None:
    """Take generations and scorings in turn, until none is claimable."""
    _serve()


@app.task(name="scores.wake")  # type: ignore[untyped-decorator]
def wake_scores(*_: Any) -> None:
    """The same: who waits for one must not wait for all of the other."""
    _serve()


def _serve() -> None:
    found = True
    while found:
        found = False
        for job, see_through in _SERVED:
            if not stopping.is_set() and (claim := claim_next(database, job, name)):
                found = True
                with working_on(claim):
                    see_through(database, claim, stopping)


@app.task(name="evaluations.wake")  # type: ignore[untyped-decorator]
def wake_evaluations(*_: Any) -> None:
    """Take evaluations, one after the other, until none is claimable."""
    while not stopping.is_set() and (claim := claim_next(database, Evaluation, name)):
        with working_on(claim):
            supervisor.supervise(database, claim, stopping, WORKS[EVALUATE])


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
