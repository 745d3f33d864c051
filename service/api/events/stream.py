"""A job's event stream: it waits without a thread or a connection, and outlives a database that goes and comes."""

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
from service.api.events.service import News, Place
from service.db.models import Evaluation, Run
from service.db.session import Database
from service.http.errors import UNAVAILABLE, ServiceError, TooManyStreams, problem_of
from service.jobs.long_poll import JobWaiter

PING_SECONDS = 15
_LOOK_SECONDS = 15.0
"""A stream looks at its job this often, told to or not: a notice is lost with the connection it came by."""
_PAUSE_SECONDS = 0.25
"""Least time between two looks."""
_RETRY_SECONDS = 2.0
_STALL_SECONDS = 60.0
"""A reader that takes nothing for so long is given up."""
_READERS = 4
"""Streams that read at once: however many there are, threads and connections are left for other requests."""
log = structlog.get_logger()


@dataclass
class Streams:
    """The streams of this process."""

    limit: int
    open: int = 0
    turns: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(_READERS))
    readers: CapacityLimiter = field(default_factory=lambda: CapacityLimiter(_READERS))

    _asked: dict[Hashable, list[tuple[Place, asyncio.Task[News]]]] = field(default_factory=lambda: defaultdict(list))
    """Looks that are yet to begin."""

    async def look(self, whose: Hashable, place: Place, read: Callable[[], News]) -> News:
        """What `read` says, to all streams at once that ask the same for one place.

        Notices wake all streams of a job together. Who asks after a look has begun may have been told of something
        newer, and has another one.
        """
        for other, look in self._asked[whose]:
            if other == place:
                return await asyncio.shield(look)
        look = asyncio.create_task(self._look(whose, read))
        look.add_done_callback(lambda done: done.cancelled() or done.exception())  # its askers may all have left
        self._asked[whose].append((place, look))
        return await asyncio.shield(look)

    async def _look(self, whose: Hashable, read: Callable[[], News]) -> News:
        async with self.turns:
            asked = self._asked[whose]
            asked[:] = [one for one in asked if one[1] is not asyncio.current_task()]
            if not asked:
                del self._asked[whose]
            return await to_thread.run_sync(read, limiter=self.readers, abandon_on_cancel=True)

    def check(self) -> None:
        """Raise TooManyStreams when there may not be another one."""
        if self.open >= self.limit:
            raise TooManyStreams(
                f"this process keeps {self.open} event streams open, as many as it may; try again in a while, or ask "
                "for the job itself",
                headers={"Retry-After": "5"},
            )


@dataclass
class JobStream:
    """The story of one job for one client, from `place` on. `permit` raises when the client may no longer listen.

    Clients of one `permission` may listen as long as each other.
    """

    database: Database
    waiter: JobWaiter
    streams: Streams
    job: type[Run] | type[Evaluation]
    id: uuid.UUID
    place: Place
    every: float
    lifetime: float
    request_id: str
    permission: Hashable
    permit: Callable[[Session], None]

    async def look(self, quiet: bool = False) -> News:
        """What has happened since `place`. Raises NotFound, what `permit` raises, and what the database raises."""

        def read() -> News:
            with self.database.readers() as session:
                self.permit(session)
                return service.news(session, self.job, self.id, self.place, quiet)

        return await self.streams.look((self.id, self.permission, quiet), self.place, read)

    async def events(self) -> AsyncIterator[ServerSentEvent]:
        """Everything until the job has ended, the client may no longer listen, or the stream is old."""
        clock = asyncio.get_running_loop().time
        closing, told, lost = clock() + self.lifetime, -math.inf, False
        yield ServerSentEvent(retry=int(_RETRY_SECONDS * 1000))
        with self.waiter.subscription(self.job.KIND, self.id) as changed:
            while clock() < closing:
                changed.clear()
                try:
                    news = await self.look(quiet=clock() < told + self.every)
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
                for event in news.events:
                    yield _event(event.type, event, event.id)
                if news.progress is not None:
                    told = clock()
                    yield _event("progress", news.progress)
                self.place = news.place
                if news.end is not None:
                    yield _event("end", news.end)
                    return
                if not news.more:
                    await asyncio.sleep(_PAUSE_SECONDS)
                    next_look = told + self.every - clock() if news.held_back else _LOOK_SECONDS
                    await _until(changed, min(next_look, closing - clock()))


class EventStream(EventSourceResponse):
    """An answer that is counted, complete when the server stops, and given up when nobody reads it."""

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

        async def sending(message: Message) -> None:
            nonlocal complete
            await send(message)
            complete = complete or (message["type"] == "http.response.body" and not message.get("more_body"))

        self._stream.streams.open += 1
        try:
            await super().__call__(scope, receive, sending)
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
    # ASCII alone: some readers take further characters of Unicode for the end of a line.
    text = json.dumps(data.model_dump(mode="json") if isinstance(data, BaseModel) else data)
    return ServerSentEvent(text, event=name, id=None if id is None else str(id))
