"""`/runs/{run_id}/logs` and `/evaluations/{evaluation_id}/logs`: the output of the job's process."""

import uuid
from typing import Annotated, Any

from fastapi import APIRouter, Header, Query, Response

from service.api.dependencies import SessionDep, SettingsDep
from service.api.logs import service
from service.api.logs.schemas import LogPart, LogQuery
from service.api.routing import ApiRoute, declare
from service.auth.principal import Scope
from service.db.models import Evaluation, Run
from service.http.content_negotiation import choose
from service.http.errors import problems

router = APIRouter(tags=["logs"], route_class=ApiRoute)


Accept = Annotated[str | None, Header(description="JSON or `text/plain`.")]
RESPONSES: dict[int | str, dict[str, Any]] = {
    200: {"content": {"text/plain": {"schema": {"type": "string"}}}},
    **problems(404, 406, 422),
}


@router.get("/runs/{run_id}/logs", summary="Show the log of a run", response_model=LogPart, responses=RESPONSES)
@declare(Scope.READ, cacheable=True)
def get_logs(
    run_id: uuid.UUID,
    query: Annotated[LogQuery, Query()],
    session: SessionDep,
    settings: SettingsDep,
    accept: Accept = None,
) -> Response:
    """The log by byte offset. To follow it, repeat the request from `next_offset`, in plain text `X-Next-Offset`."""
    media_type = choose(accept, ("application/json", "text/plain"))
    return _shown(service.read(session, Run, run_id, query, settings.log_chunk_bytes), media_type)


@router.get(
    "/evaluations/{evaluation_id}/logs",
    summary="Show the log of an evaluation",
    response_model=LogPart,
    responses=RESPONSES,
)
@declare(Scope.READ, cacheable=True)
def get_evaluation_logs(
    evaluation_id: uuid.UUID,
    query: Annotated[LogQuery, Query()],
    session: SessionDep,
    settings: SettingsDep,
    accept: Accept = None,
) -> Response:
    """The log by byte offset, as for a run."""
    media_type = choose(accept, ("application/json", "text/plain"))
    return _shown(service.read(session, Evaluation, evaluation_id, query, settings.log_chunk_bytes), media_type)


def _shown(part: LogPart, media_type: str) -> Response:
    headers = {"Vary": "Accept", "X-Next-Offset": str(part.next_offset)}
    if media_type == "text/plain":
        return Response(part.text, media_type="text/plain; charset=utf-8", headers=headers)
    return Response(part.model_dump_json(), media_type=media_type, headers=headers)
