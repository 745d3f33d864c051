"""Waking workers up: the only place on this side that knows Celery's name.

Messages carry no work. A woken worker claims the next job it finds in the database, so a lost message delays a job
until the workers' next look, and a doubled one does nothing.
"""

import re
import uuid
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

import structlog

from service.core.settings import Settings

if TYPE_CHECKING:
    from celery import Celery

Task = Literal["runs.wake", "generations.wake", "evaluations.wake", "scores.wake"]
_QUEUES: dict[Task, str] = {
    "runs.wake": "train",
    "generations.wake": "generate",
    "evaluations.wake": "evaluate",
    "scores.wake": "generate",
}
QUEUES = tuple(dict.fromkeys(_QUEUES.values()))
"""Each has workers of its own."""
_PATIENCE = 1.0
"""Seconds to reach the broker before giving up."""

log = structlog.get_logger()


class Queue:
    """A sender of wake-ups."""

    def __init__(self, settings: Settings) -> None:
        self._url = settings.broker_url

    @cached_property
    def _celery(self) -> "Celery":
        from celery import Celery  # 0.15 s that the first sending pays, and starting does not

        celery = Celery("g2rpo", broker=self._url, set_as_current=False)
        celery.conf.update(
            task_serializer="json",
            task_ignore_result=True,
            broker_connection_timeout=_PATIENCE,
            broker_transport_options={
                "socket_connect_timeout": _PATIENCE,
                "socket_timeout": _PATIENCE,
                "max_retries": 0,
                "retry_on_timeout": False,
            },
        )
        return celery

    def send(self, task: Task, id: uuid.UUID) -> bool:
        """Wake a worker for a job; False, and a line in the log, where the broker does not answer."""
        request_id = structlog.contextvars.get_contextvars().get("request_id")
        headers = {"request_id": request_id} if request_id else None
        try:
            self._celery.send_task(
                task, args=[str(id)], queue=_QUEUES[task], headers=headers, retry=False, ignore_result=True
            )
        except Exception as error:
            # Whatever the transport raises: the row is already committed, and workers look for such rows.
            log.warning("wake_up_not_sent", task=task, job=str(id), error=repr(error))
            return False
        log.info("wake_up_sent", task=task, job=str(id))
        return True

    @property
    def address(self) -> str:
        """The broker's URL without its password."""
        return re.sub(r"(://[^:/@]*):[^@/]*@", r"\1:***@", self._url)

    def ping(self) -> None:
        """Raise what the transport raises unless the broker answers within a second."""
        with self._celery.connection_for_write() as connection:
            connection.ensure_connection(max_retries=0, timeout=_PATIENCE, errback=None)

    def server(self) -> dict[str, Any]:
        """What the broker says of itself, as its command INFO names it. Raises what the transport raises."""
        with self._celery.connection_for_write() as connection:
            connection.ensure_connection(max_retries=0, timeout=_PATIENCE, errback=None)
            said: dict[str, Any] = connection.default_channel.client.info()
            return said

    def close(self) -> None:
        """Give up every connection."""
        if "_celery" in self.__dict__:
            self._celery.close()
