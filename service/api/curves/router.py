"""`/runs/{run_id}/curves`: convergence curves."""

import uuid
from typing import Annotated, Literal

from fastapi import APIRouter, Header, Query, Response

from service.api.curves import figure, service
from service.api.curves.schemas import CurveQuery, Curves
from service.api.dependencies import SessionDep
from service.api.routing import ApiRoute, declare
from service.auth.principal import Scope
from service.db.models import Run
from service.http.content_negotiation import choose
from service.http.errors import problems
from service.jobs import views

router = APIRouter(tags=["curves"], route_class=ApiRoute)

FORMS: dict[str, Literal["png", "svg"]] = {"image/png": "png", "image/svg+xml": "svg"}
OFFERED = ("application/json", "text/csv", *FORMS)
_BINARY = {"schema": {"type": "string", "format": "binary"}}
CONTENT = {"text/csv": {"schema": {"type": "string"}}, "image/png": _BINARY, "image/svg+xml": _BINARY}
Accept = Annotated[str | None, Header(description="JSON, `text/csv`, `image/png` or `image/svg+xml`.")]


@router.get(
    "/runs/{run_id}/curves",
    operation_id="getCurves",
    summary="Convergence curves of a run",
    response_model=Curves,
    responses={200: {"content": CONTENT}, **problems(404, 406, 422)},
)
@declare(Scope.READ, cacheable=True)
def get_curves(
    run_id: uuid.UUID,
    query: Annotated[CurveQuery, Query()],
    session: SessionDep,
    accept: Accept = None,
) -> Response:
    """Metrics over optimizer steps. Long ones are cut into buckets with mean, least and greatest: spikes stay visible.

    Where a step was done by several attempts, the newest one's value is shown.
    """
    media_type = choose(accept, OFFERED)
    curves = service.curves(session, run_id, query)
    headers = {"Vary": "Accept"}
    if media_type == "text/csv":
        return Response(service.table(curves), media_type="text/csv; charset=utf-8", headers=headers)
    if media_type in FORMS:
        run = views.find(session, Run, run_id)
        session.close()  # drawing takes a while, and needs no connection
        title = f"{run.name or run.id} ({run.model}, {run.algorithm})"
        return Response(figure.draw(curves, title, FORMS[media_type]), media_type=media_type, headers=headers)
    return Response(curves.model_dump_json(), media_type=media_type, headers=headers)
