"""`/runs/{run_id}/events`: what happens to a run, as it happens."""

import uuid
from typing import Annotated, Any

from fastapi import APIRouter, Header, Query, Request, Response
from fastapi.responses import JSONResponse

from service.dependencies import DatabaseDep, WaiterDep
from service.errors import problems
from service.events.schemas import LAST_ID, EventQuery, StreamedEvent
from service.events.service import Place
from service.events.stream import EventStream, RunStream, Streams
from service.keys.caller import CallerDep
from service.keys.service import check
from service.negotiation import choose, preferred_wait
from service.thread_route import ThreadRoute

router = APIRouter(tags=["events"], route_class=ThreadRoute)

_MEDIA_TYPE = "text/event-stream"
_STREAM: dict[int | str, dict[str, Any]] = {
    200: {
        "model": StreamedEvent,
        "description": "Server-sent events: the schema is that of one event, whose `data` is JSON on one line.",
    }
}


class _EventStreamMedia(JSONResponse):
    """What OpenAPI shows this route to answer with: JSON in the events of a stream."""

    media_type = _MEDIA_TYPE


@router.get(
    "/runs/{run_id}/events",
    operation_id="streamRunEvents",
    summary="Follow a run",
    response_class=_EventStreamMedia,
    responses={**_STREAM, **problems(404, 406, 422, 503)},
)
async def stream_run_events(
    run_id: uuid.UUID,
    query: Annotated[EventQuery, Query()],
    request: Request,
    database: DatabaseDep,
    waiter: WaiterDep,
    caller: CallerDep,
    last_event_id: Annotated[
        int | None, Header(ge=0, le=LAST_ID, description="The id of the newest event the client has.")
    ] = None,
    accept: Annotated[str | None, Header(description="`text/event-stream`.")] = None,
    prefer: Annotated[str | None, Header(description="`wait=N`: close the stream after N seconds.")] = None,
) -> Response:
    """Server-sent events: all that happened to the run after `Last-Event-ID`, from the beginning by default.

    Numbered events are the run's own (`status`, `started`, `checkpoint`, …). Between them `progress` says where it
    stands. `end` comes once it has ended and everything was sent; `error`, with a problem, when the client may no
    longer listen or the run was deleted. Then the connection closes. Where it closes without them, the stream only
    goes on elsewhere: connect again with `Last-Event-ID`, as `EventSource` does by itself.
    """
    choose(accept, (_MEDIA_TYPE,))
    streams: Streams = request.app.state.streams
    streams.check()
    wanted = preferred_wait(prefer)
    most = database.settings.max_stream_seconds
    stream = RunStream(
        database,
        waiter,
        streams,
        run_id,
        Place(query.after if last_event_id is None else last_event_id),
        query.every,
        min(wanted, most) if wanted else most,
        request.state.request_id,
        permission=caller.id,
        permit=lambda session: check(session, caller.id),
    )
    await stream.look()  # an unknown run is refused before the stream begins
    return EventStream(stream)
