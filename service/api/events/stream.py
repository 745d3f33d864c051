"""Stream the events of a job.

A waiting stream holds no thread or database connection, and streams survive a database restart.
"""

import asyncio
import json
import math
import uuid
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Hashable
from dataclasses import dataclass, field

import structlog
from anyio import CapacityLimiter, to_thread
from pydantic import BaseModel
from sqlalchemy.orm import Session
from sse_starlette import EventSourceResponse, ServerSentEvent
from sse_starlette.sse import SendTimeoutError
from starlette.types import Message, Receive, Scope, Send

from service.api.events import service
from service.api.events.service import Position, Update
from service.db.models import Evaluation, Run
from service.db.session import Database
from service.http.errors import UNAVAILABLE, ServiceError, TooManyStreams, problem_of
from service.jobs.long_poll import JobWaiter

PING_SECONDS = 15
_POLL_SECONDS = 15.0
"""The maximum time between two reads. It bounds the delay if a notification is lost with its connection."""
_PAUSE_SECONDS = 0.25
"""The minimum time between two reads."""
_RETRY_SECONDS = 2.0
_STALL_SECONDS = 60.0
"""The time after which the connection is closed if the client reads nothing."""
_READERS = 4
"""The maximum number of concurrent reads, so that threads and connections remain for other requests."""
log = structlog.get_logger()


@dataclass
class Streams:
    """The open event streams of this process, and the reads that they share."""

    limit: int
    open: int = 0
    turns: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(_READERS))
    readers: CapacityLimiter = field(default_factory=lambda: CapacityLimiter(_READERS))

    _pending: dict[Hashable, list[tuple[Position, asyncio.Task[Update]]]] = field(
        default_factory=lambda: defaultdict(list)
    )
    """Reads that have not started yet, by key."""

    async def read(self, key: Hashable, position: Position, read: Callable[[], Update]) -> Update:
        """Call `read` and return its result, which all streams with the same key and position share.

        A notification wakes all streams of a job at the same time, so most of them need the same result. A read that
        has already started is not shared, because it may miss the change behind a later notification.
        """
        for other, task in self._pending[key]:
            if other == position:
                return await asyncio.shield(task)
        task = asyncio.create_task(self._read(key, read))
        task.add_done_callback(lambda done: done.cancelled() or done.exception())  # all clients may have left
        self._pending[key].append((position, task))
        return await asyncio.shield(task)

    async def _read(self, key: Hashable, read: Callable[[], Update]) -> Update:
        async with self.turns:
            pending = self._pending[key]
            pending[:] = [entry for entry in pending if entry[1] is not asyncio.current_task()]
            if not pending:
                del self._pending[key]
            return await to_thread.run_sync(read, limiter=self.readers, abandon_on_cancel=True)

    def check(self) -> None:
        """Raise TooManyStreams if the limit is reached."""
        if self.open >= self.limit:
            raise TooManyStreams(
                f"This process has {self.open} open event streams, the maximum; retry later, or poll the job",
                headers={"Retry-After": "5"},
            )


@dataclass
class JobStream:
    """The events of one job for one client, starting at `position`.

    `permit` raises an error once access has been revoked. Clients with the same `permission` share reads.
    """

    database: Database
    waiter: JobWaiter
    streams: Streams
    job: type[Run] | type[Evaluation]
    id: uuid.UUID
    position: Position
    every: float
    lifetime: float
    request_id: str
    permission: Hashable
    permit: Callable[[Session], None]

    async def read(self, quiet: bool = False) -> Update:
        """Return the changes since `position`. Raises NotFound, and any error raised by `permit` or the database."""

        def read() -> Update:
            with self.database.readers() as session:
                self.permit(session)
                return service.read_update(session, self.job, self.id, self.position, quiet)

        return await self.streams.read((self.id, self.permission, quiet), self.position, read)

    async def events(self) -> AsyncIterator[ServerSentEvent]:
        """Yield events until the job has ended, access is revoked, or the lifetime is over."""
        clock = asyncio.get_running_loop().time
        closing, progress_at, lost = clock() + self.lifetime, -math.inf, False
        yield ServerSentEvent(retry=int(_RETRY_SECONDS * 1000))
        with self.waiter.subscription(self.job.KIND, self.id) as changed:
            while clock() < closing:
                changed.clear()
                try:
                    update = await self.read(quiet=clock() < progress_at + self.every)
                except UNAVAILABLE as error:
                    if not lost:
                        log.warning("stream_read_failed", **{self.job.KIND: str(self.id)}, error=str(error))
                    lost = True
                    await _until(changed, min(_RETRY_SECONDS, closing - clock()))
                    continue
                except ServiceError as error:
                    yield _event("error", problem_of(error, self.request_id))
                    return
                lost = False
                for event in update.events:
                    yield _event(event.type, event, event.id)
                if update.progress is not None:
                    progress_at = clock()
                    yield _event("progress", update.progress)
                self.position = update.position
                if update.end is not None:
                    yield _event("end", update.end)
                    return
                if not update.more:
                    await asyncio.sleep(_PAUSE_SECONDS)
                    wait = progress_at + self.every - clock() if update.held_back else _POLL_SECONDS
                    await _until(changed, min(wait, closing - clock()))


class EventStream(EventSourceResponse):
    """A response that counts as an open stream.

    It ends cleanly when the server stops, and is aborted if the client stalls.
    """

    def __init__(self, stream: JobStream) -> None:
        super().__init__(
            stream.events(),
            ping=PING_SECONDS,
            ping_message_factory=lambda: ServerSentEvent(comment="ping"),
            send_timeout=_STALL_SECONDS,
        )
        self._stream = stream

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        complete = False

        async def track(message: Message) -> None:
            nonlocal complete
            await send(message)
            complete = complete or (message["type"] == "http.response.body" and not message.get("more_body"))

        self._stream.streams.open += 1
        try:
            await super().__call__(scope, receive, track)
            if not complete:
                await send({"type": "http.response.body", "body": b"", "more_body": False})
        except SendTimeoutError:
            log.info("stream_stalled", **{self._stream.job.KIND: str(self._stream.id)})
        finally:
            self._stream.streams.open -= 1


async def _until(changed: asyncio.Event, seconds: float) -> None:
    try:
        async with asyncio.timeout(max(0.0, seconds)):
            await changed.wait()
    except TimeoutError:
        return


def _event(name: str, data: BaseModel | dict[str, object], id: int | None = None) -> ServerSentEvent:
    # Escape to ASCII, because some clients treat additional Unicode characters as line endings.
    text = json.dumps(data.model_dump(mode="json") if isinstance(data, BaseModel) else data)
    return ServerSentEvent(text, event=name, id=None if id is None else str(id))
