"""`/runs/{run_id}/logs` and `/evaluations/{evaluation_id}/logs`: the output of the job process."""

import uuid
from collections.abc import Callable
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Header, Query, Response

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
    **problems(406),
}
ReadLog = Callable[[type[Run] | type[Evaluation], uuid.UUID], Response]


async def _read_log(
    query: Annotated[LogQuery, Query()], session: SessionDep, settings: SettingsDep, accept: Accept = None
) -> ReadLog:
    def read_log(job: type[Run] | type[Evaluation], id: uuid.UUID) -> Response:
        media_type = choose(accept, ("application/json", "text/plain"))
        part = service.read(session, job, id, query, settings.log_chunk_bytes)
        headers = {"Vary": "Accept", "X-Next-Offset": str(part.next_offset)}
        text = part.text if media_type == "text/plain" else part.model_dump_json()
        return Response(text, media_type=media_type, headers=headers)

    return read_log


ReadLogDep = Annotated[ReadLog, Depends(_read_log)]


@router.get("/runs/{run_id}/logs", summary="Show the log of a run", response_model=LogPart, responses=RESPONSES)
@declare(Scope.READ, cacheable=True)
def get_logs(run_id: uuid.UUID, read_log: ReadLogDep) -> Response:
    """Return part of the log, starting at a byte offset.

    To follow the log, repeat the request with `offset` set to `next_offset`, which plain text responses return in the
    header `X-Next-Offset`.
    """
    return read_log(Run, run_id)


@router.get(
    "/evaluations/{evaluation_id}/logs",
    summary="Show the log of an evaluation",
    response_model=LogPart,
    responses=RESPONSES,
)
@declare(Scope.READ, cacheable=True)
def get_evaluation_logs(evaluation_id: uuid.UUID, read_log: ReadLogDep) -> Response:
    """Return part of the log, starting at a byte offset.

    To follow the log, repeat the request with `offset` set to `next_offset`, which plain text responses return in the
    header `X-Next-Offset`.
    """
    return read_log(Evaluation, evaluation_id)
