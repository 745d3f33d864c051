"""Wake workers through the broker. No other module of the service uses Celery.

Messages do not contain the work itself. A woken worker claims the next job in the database, so a lost message only
delays a job until a worker next polls the database, and a duplicate message has no effect.
"""

import re
import uuid
from functools import cached_property
from typing import TYPE_CHECKING, Any

import structlog

from service.core.settings import WAKE_TASK, Settings
from service.db.models import Job

if TYPE_CHECKING:
    from celery import Celery

_TIMEOUT_SECONDS = 1.0

log = structlog.get_logger()


class Queue:
    """Sends messages that wake workers."""

    def __init__(self, settings: Settings) -> None:
        self._url = settings.broker_url

    @cached_property
    def _celery(self) -> "Celery":
        from celery import Celery  # takes 0.15 s, so it is imported for the first message instead of at startup

        celery = Celery("g2rpo", broker=self._url, set_as_current=False)
        celery.conf.update(
            task_ignore_result=True,
            broker_connection_timeout=_TIMEOUT_SECONDS,
            broker_transport_options={
                "socket_connect_timeout": _TIMEOUT_SECONDS,
                "socket_timeout": _TIMEOUT_SECONDS,
                "max_retries": 0,
                "retry_on_timeout": False,
            },
        )
        return celery

    def send(self, job: type[Job], id: uuid.UUID) -> bool:
        """Wake a worker for a job. Returns False and logs a warning if the broker cannot be reached."""
        request_id = structlog.contextvars.get_contextvars().get("request_id")
        headers = {"request_id": request_id} if request_id else None
        try:
            self._celery.send_task(WAKE_TASK, args=[job.QUEUE, str(id)], queue=job.QUEUE, headers=headers, retry=False)
        except Exception as error:
            # The transport raises many exception types. The job is already committed, and workers poll for such jobs.
            log.warning("wake_up_not_sent", queue=job.QUEUE, job=str(id), error=repr(error))
            return False
        log.info("wake_up_sent", queue=job.QUEUE, job=str(id))
        return True

    @property
    def address(self) -> str:
        """The broker's URL without its password."""
        return re.sub(r"(://[^:/@]*):[^@/]*@", r"\1:***@", self._url)

    def ping(self) -> None:
        """Check that the broker responds within a second. Raises the transport's error if it does not."""
        with self._celery.connection_for_write() as connection:
            connection.ensure_connection(max_retries=0, timeout=_TIMEOUT_SECONDS, errback=None)

    def server(self) -> dict[str, Any]:
        """Return the broker's response to INFO. Raises the transport's error if the broker cannot be reached."""
        with self._celery.connection_for_write() as connection:
            connection.ensure_connection(max_retries=0, timeout=_TIMEOUT_SECONDS, errback=None)
            info: dict[str, Any] = connection.default_channel.client.info()
            return info

    def close(self) -> None:
        """Close all connections."""
        if "_celery" in self.__dict__:
            self._celery.close()
