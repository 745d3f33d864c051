"""A worker's log: the service's JSON lines, naming the worker, the job at hand, and the request that asked for it."""

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import structlog
from celery.signals import celeryd_init, setup_logging, task_prerun

from service.core import logging as service_logging
from service.core.settings import unknown_variables
from worker.jobs.claim import Claim

log = structlog.get_logger()

_message: ContextVar[tuple[str | None, str | None]] = ContextVar("message", default=(None, None))
"""The job that woke this thread, and the id of the request it came with."""


def install(worker: str, level: str) -> None:
    """From Celery's start on, log everything of this process as the worker of that name. Call it when tasks load."""

    # Before the first line: Celery warns of a superuser between this signal and `setup_logging`.
    def begin(instance: Any, **_: Any) -> None:
        instance.quiet = True  # no banner between the lines
        service_logging.configure(level, worker=worker)
        for variable, meant in unknown_variables(os.environ).items():
            log.warning("setting.unknown", variable=variable, did_you_mean=meant)
        threading.excepthook = _thread_failed

    celeryd_init.connect(begin, weak=False)


@setup_logging.connect  # type: ignore[untyped-decorator]
def _leave_alone(**_: Any) -> None:
    """Celery sets up no log of its own where somebody listens to this signal."""


@task_prerun.connect  # type: ignore[untyped-decorator]
def _remember_message(task: Any, args: Any = (), **_: Any) -> None:
    _message.set((str(args[1]) if len(args) > 1 else None, task.request.get("request_id")))


@contextmanager
def working_on(claim: Claim) -> Iterator[None]:
    """Every line of this thread names the claimed job, and its request where the waking message was about this job."""
    ids: dict[str, Any] = {claim.job.KIND: str(claim.id), "attempt": claim.attempt}
    job, request_id = _message.get()
    if request_id is not None and job == str(claim.id):
        ids["request_id"] = request_id
    with structlog.contextvars.bound_contextvars(**ids):
        yield


def _thread_failed(failed: threading.ExceptHookArgs) -> None:
    thread = failed.thread.name if failed.thread else None
    log.critical("thread.failed", thread=thread, exc_info=failed.exc_value)
