"""Wait for job changes without blocking threads, using one LISTEN connection for the whole process."""

import asyncio
import uuid
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psycopg
import structlog
from fastapi import Response
from fastapi.concurrency import run_in_threadpool
from sqlalchemy import Engine

from service.db.events import CHANNEL
from service.db.models import Job
from service.db.session import Database
from service.http.content_negotiation import preferred_wait
from service.jobs import views

_RETRY_SECONDS = 0.5
_CONNECTION: dict[str, Any] = {
    "connect_timeout": 5,
    "application_name": "g2rpo-listen",
    # The connection only reads, so without keepalives the loss of the database's machine would go unnoticed.
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 3,
}
log = structlog.get_logger()


class JobWaiter:
    """Notifies waiting routes when a job changes.

    `run` holds the connection. All subscriptions are notified after a reconnect because notifications may have been
    missed.
    """

    def __init__(self, engine: Engine) -> None:
        self._arguments: dict[str, Any] = {**_CONNECTION, **engine.dialect.create_connect_args(engine.url)[1]}
        self._waiting: dict[str, set[asyncio.Event]] = defaultdict(set)

    @contextmanager
    def subscription(self, kind: str, id: uuid.UUID) -> Iterator[asyncio.Event]:
        """Yield an event that is set whenever the job may have changed. Read the job only after subscribing."""
        name, changed = f"{kind}:{id}", asyncio.Event()
        self._waiting[name].add(changed)
        try:
            yield changed
        finally:
            self._waiting[name].discard(changed)
            if not self._waiting[name]:
                del self._waiting[name]

    async def run(self) -> None:
        """Listen until cancelled. Each loss of the connection is logged once."""
        lost = False
        while True:
            try:
                async with await psycopg.AsyncConnection.connect(**self._arguments, autocommit=True) as connection:
                    await connection.execute(f"LISTEN {CHANNEL}")
                    for changed in set().union(*self._waiting.values()):
                        changed.set()
                    lost = False
                    async for notice in connection.notifies():
                        for changed in self._waiting.get(notice.payload, ()):
                            changed.set()
            except (psycopg.Error, OSError) as error:
                if not lost:
                    log.warning("listen_connection_lost", error=str(error))
                lost = True
            await asyncio.sleep(_RETRY_SECONDS)


async def wait_for_end(
    prefer: str | None, response: Response, database: Database, waiter: JobWaiter, job: type[Job], id: uuid.UUID
) -> bool:
    """Wait until a job has ended, for as long as `Prefer` requests and the settings allow.

    Returns whether the job has ended, or False without checking if no wait was requested.
    """
    seconds = min(preferred_wait(prefer), database.settings.max_wait_seconds)
    if seconds <= 0:
        return False

    def ended() -> bool:
        with database.sessions() as session:
            return views.has_ended(session, job, id)

    response.headers["Preference-Applied"] = f"wait={seconds:g}"
    with waiter.subscription(job.KIND, id) as changed:
        try:
            async with asyncio.timeout(seconds):
                while not await run_in_threadpool(ended):
                    await changed.wait()
                    changed.clear()
        except TimeoutError:
            return await run_in_threadpool(ended)
    return True
