"""The routes `/runs/{run_id}/events` and `/evaluations/{evaluation_id}/events`: server-sent events of a job."""

import uuid
from collections.abc import Awaitable, Callable
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Header, Query, Request, Response
from fastapi.responses import JSONResponse

from service.api.dependencies import DatabaseDep, WaiterDep
from service.api.events.schemas import LAST_ID, EvaluationStreamedEvent, EventQuery, StreamedEvent
from service.api.events.service import Position
from service.api.events.stream import EventStream, JobStream, Streams
from service.api.routing import ApiRoute, declare
from service.auth.api_keys import check
from service.auth.principal import PrincipalDep, Scope
from service.db.models import Evaluation, Run
from service.http.content_negotiation import choose, preferred_wait
from service.http.errors import problems

router = APIRouter(tags=["events"], route_class=ApiRoute)

_MEDIA_TYPE = "text/event-stream"
_DESCRIPTION = "A stream of server-sent events. The schema describes one event; its `data` is JSON on one line."
LastEventId = Annotated[
    int | None, Header(ge=0, le=LAST_ID, description="Id of the last event that the client has received.")
]
Accept = Annotated[str | None, Header(description="`text/event-stream`.")]
Prefer = Annotated[str | None, Header(description="`wait=N`: close the stream after N seconds.")]

OpenStream = Callable[[type[Run] | type[Evaluation], uuid.UUID], Awaitable[Response]]


class _EventStreamMedia(JSONResponse):
    """A response class that documents the media type of event streams, whose data is JSON."""

    media_type = _MEDIA_TYPE


def _responses(model: type[Any]) -> dict[int | str, dict[str, Any]]:
    return {200: {"model": model, "description": _DESCRIPTION}, **problems(404, 406, 422, 503)}


async def _open_stream(
    request: Request,
    query: Annotated[EventQuery, Query()],
    database: DatabaseDep,
    waiter: WaiterDep,
    principal: PrincipalDep,
    last_event_id: LastEventId = None,
    accept: Accept = None,
    prefer: Prefer = None,
) -> OpenStream:
    async def open_stream(job: type[Run] | type[Evaluation], id: uuid.UUID) -> Response:
        choose(accept, (_MEDIA_TYPE,))
        streams: Streams = request.app.state.streams
        streams.check()
        lifetime = database.settings.max_stream_seconds
        stream = JobStream(
            database,
            waiter,
            streams,
            job,
            id,
            Position(query.after if last_event_id is None else last_event_id),
            query.every,
            min(preferred_wait(prefer) or lifetime, lifetime),
            request.state.request_id,
            permission=principal.id,
            permit=lambda session: check(session, principal.id),
        )
        await stream.read()  # raises NotFound before the stream starts
        return EventStream(stream)

    return open_stream


OpenStreamDep = Annotated[OpenStream, Depends(_open_stream)]


@router.get(
    "/runs/{run_id}/events",
    summary="Follow a run",
    response_class=_EventStreamMedia,
    responses=_responses(StreamedEvent),
)
@declare(Scope.READ)
async def stream_run_events(run_id: uuid.UUID, open_stream: OpenStreamDep) -> Response:
    """Stream the server-sent events of a run that follow `Last-Event-ID`, or all events if no id is given.

    Events with an id are those of the run (`status`, `started`, `checkpoint`, …); `progress` reports its current state.
    `end` is sent once the run has ended and all events have been sent. `error`, with a problem, is sent if the API key
    is no longer valid or the run was deleted. The connection is closed after `end` or `error`. If it is closed
    before, reconnect with `Last-Event-ID`, as `EventSource` does automatically.
    """
    return await open_stream(Run, run_id)


@router.get(
    "/evaluations/{evaluation_id}/events",
    summary="Follow an evaluation",
    response_class=_EventStreamMedia,
    responses=_responses(EvaluationStreamedEvent),
)
@declare(Scope.READ)
async def stream_evaluation_events(evaluation_id: uuid.UUID, open_stream: OpenStreamDep) -> Response:
    """Stream the server-sent events of an evaluation that follow `Last-Event-ID`, or all events if no id is given.

    The stream works like the event stream of a run.
    """
    return await open_stream(Evaluation, evaluation_id)
