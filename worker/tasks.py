"""The worker's task, which runs jobs until none is claimable. A message contains no job; it only wakes the worker.

The worker logs JSON lines that contain its name, the job, and the id of the request that created the job.
"""

import os
import secrets
import socket
import threading
from typing import Any

import structlog
from celery import signals

from service.core import logging as service_logging
from service.core.settings import WAKE_TASK, Settings, unknown_variables
from service.db.session import connect
from worker.celery_app import app
from worker.jobs.claim import claim_next
from worker.jobs.job_runner import run_job
from worker.jobs.registry import job_types
from worker.maintenance.housekeeping import Housekeeping
from worker.monitoring import devices

log = structlog.get_logger()

_settings = Settings()
database = connect(_settings, idle_seconds=_settings.lease_seconds)
stopping = threading.Event()
name = f"{socket.gethostname()}:{os.getpid()}:{secrets.token_hex(4)}"
"""The worker's name, unique for every process, so that a restarted worker does not reuse an old lease."""

_housekeeping: Housekeeping | None = None


@app.task(name=WAKE_TASK, bind=True)  # type: ignore[untyped-decorator]
def wake(task: Any, queue: str, job: str | None = None) -> None:
    """Run the jobs in a queue, alternating between job types, until none is claimable.

    Log lines contain the job's id. They also contain the id of the request that created the job if its id equals `job`.
    """
    request_id = task.request.get("request_id")
    claimed = True
    while claimed:
        claimed = False
        for job_type in job_types(queue):
            if not stopping.is_set() and (claim := claim_next(database, job_type, name, devices.count())):
                claimed = True
                ids: dict[str, Any] = {claim.kind: str(claim.id), "attempt": claim.attempt}
                if request_id is not None and job == str(claim.id):
                    ids["request_id"] = request_id
                with structlog.contextvars.bound_contextvars(**ids):
                    run_job(database, claim, stopping)


@signals.celeryd_init.connect  # type: ignore[untyped-decorator]
def _configure_logging(instance: Any, **_: Any) -> None:
    """Configure logging before Celery can log its superuser warning, which it does before `setup_logging`."""
    instance.quiet = True  # no banner between the JSON lines
    service_logging.configure(_settings.log_level, worker=name)
    for variable, suggestion in unknown_variables(os.environ).items():
        log.warning("setting.unknown", variable=variable, did_you_mean=suggestion)
    threading.excepthook = _log_thread_failure


@signals.setup_logging.connect  # type: ignore[untyped-decorator]
def _keep_logging(**_: Any) -> None:
    """Prevent Celery from configuring logging, which it does if this signal has no receiver."""


def _log_thread_failure(failure: threading.ExceptHookArgs) -> None:
    thread = failure.thread.name if failure.thread else None
    log.critical("thread.failed", thread=thread, exc_info=failure.exc_value)


@signals.worker_ready.connect  # type: ignore[untyped-decorator]
def _start_housekeeping(sender: Any, **_: Any) -> None:
    global _housekeeping
    queue = next(iter(sender.app.amqp.queues.consume_from))
    _housekeeping = Housekeeping(database, app, name, queue)
    _housekeeping.start()


@signals.worker_shutting_down.connect  # type: ignore[untyped-decorator]
def _drain(**_: Any) -> None:
    """Stop the running job in an orderly way after SIGTERM, so that another worker can continue it."""
    stopping.set()


@signals.worker_shutdown.connect  # type: ignore[untyped-decorator]
def _shut_down(**_: Any) -> None:
    if _housekeeping is not None:
        _housekeeping.stop()
    database.close()
