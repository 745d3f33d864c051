"""The task of a worker: run jobs until none is claimable. A message carries no work; it only wakes the worker.

The worker logs the service's JSON lines, with its name, the job, and the id of the request that created the job.
"""

import os
import secrets
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import structlog
from celery.signals import (
    celeryd_init,
    setup_logging,
    task_prerun,
    worker_ready,
    worker_shutdown,
    worker_shutting_down,
)

from service.core import logging as service_logging
from service.core.settings import Settings, unknown_variables
from service.db.session import connect
from worker.celery_app import WAKE, app
from worker.jobs.claim import Claim, claim_next
from worker.jobs.registry import job_types
from worker.jobs.runner import run_job
from worker.maintenance.housekeeping import Housekeeping
from worker.monitoring import devices

log = structlog.get_logger()

_settings = Settings()
database = connect(_settings, idle_seconds=_settings.lease_seconds)
stopping = threading.Event()
name = f"{socket.gethostname()}:{os.getpid()}:{secrets.token_hex(4)}"
"""Unique for every process: a restarted worker must not reuse an old lease."""

_message: ContextVar[tuple[str | None, str | None]] = ContextVar("message", default=(None, None))
"""The job and the request id of the message that woke this thread."""
_housekeeping: Housekeeping | None = None


@app.task(name=WAKE)  # type: ignore[untyped-decorator]
def wake(queue: str, *_: Any) -> None:
    """Run the jobs of a queue, one of each kind in turn, until none is claimable."""
    claimed = True
    while claimed:
        claimed = False
        for job_type in job_types(queue):
            if not stopping.is_set() and (claim := claim_next(database, job_type, name, devices.count())):
                claimed = True
                with _logging_context(claim):
                    run_job(database, claim, stopping)


@contextmanager
def _logging_context(claim: Claim) -> Iterator[None]:
    """Within the block, log lines of this thread name the job, and the request if the message was about this job."""
    ids: dict[str, Any] = {claim.kind: str(claim.id), "attempt": claim.attempt}
    job, request_id = _message.get()
    if request_id is not None and job == str(claim.id):
        ids["request_id"] = request_id
    with structlog.contextvars.bound_contextvars(**ids):
        yield


@task_prerun.connect  # type: ignore[untyped-decorator]
def _remember_message(task: Any, args: Any = (), **_: Any) -> None:
    _message.set((str(args[1]) if len(args) > 1 else None, task.request.get("request_id")))


@celeryd_init.connect  # type: ignore[untyped-decorator]
def _configure_logging(instance: Any, **_: Any) -> None:
    """Configure logging before Celery's first line, a warning about the superuser that precedes `setup_logging`."""
    instance.quiet = True  # no banner between the JSON lines
    service_logging.configure(_settings.log_level, worker=name)
    for variable, suggestion in unknown_variables(os.environ).items():
        log.warning("setting.unknown", variable=variable, did_you_mean=suggestion)
    threading.excepthook = _log_thread_failure


@setup_logging.connect  # type: ignore[untyped-decorator]
def _keep_logging(**_: Any) -> None:
    """Keep Celery from configuring logging, which it does unless this signal has a receiver."""


def _log_thread_failure(failure: threading.ExceptHookArgs) -> None:
    thread = failure.thread.name if failure.thread else None
    log.critical("thread.failed", thread=thread, exc_info=failure.exc_value)


@worker_ready.connect  # type: ignore[untyped-decorator]
def _start_housekeeping(sender: Any, **_: Any) -> None:
    global _housekeeping
    queue = next(iter(sender.app.amqp.queues.consume_from))
    _housekeeping = Housekeeping(database, app, name, queue)
    _housekeeping.start()


@worker_shutting_down.connect  # type: ignore[untyped-decorator]
def _drain(**_: Any) -> None:
    """SIGTERM: the running job stops in an orderly way, and another worker continues it."""
    stopping.set()


@worker_shutdown.connect  # type: ignore[untyped-decorator]
def _shut_down(**_: Any) -> None:
    if _housekeeping is not None:
        _housekeeping.stop()
    database.close()
