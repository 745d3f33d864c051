"""The routes `/runs/{run_id}/curves` and `/curves`: convergence curves of one or several runs."""

import uuid
from collections.abc import Callable
from functools import partial
from typing import Annotated, Literal

from fastapi import APIRouter, Header, Query, Response
from pydantic import BaseModel

from service.api.curves import service
from service.api.curves.schemas import Comparison, ComparisonQuery, CurveQuery, Curves
from service.api.dependencies import SessionDep
from service.api.routing import ApiRoute, declare
from service.auth.principal import Scope
from service.db.models import Run
from service.http.content_negotiation import openapi_content, respond
from service.http.errors import problems
from service.jobs import views

router = APIRouter(tags=["curves"], route_class=ApiRoute)

Form = Literal["png", "svg"]
CONTENT = openapi_content("text/csv", "image/png", "image/svg+xml")
Accept = Annotated[str | None, Header(description="JSON, `text/csv`, `image/png` or `image/svg+xml`.")]


@router.get(
    "/runs/{run_id}/curves",
    summary="Show the convergence curves of a run",
    response_model=Curves,
    responses={200: {"content": CONTENT}, **problems(406)},
)
@declare(Scope.READ, cacheable=True)
def get_curves(
    run_id: uuid.UUID, query: Annotated[CurveQuery, Query()], session: SessionDep, accept: Accept = None
) -> Response:
    """Return the metrics of a run over optimizer steps.

    Long metrics are divided into buckets with mean, minimum and maximum, so that spikes remain visible. If several
    attempts computed a step, the value of the newest attempt is used.
    """
    curves = service.curves(session, run_id, query)
    run = views.find(session, Run, run_id)
    title = (run.name or f"run {str(run.id)[-8:]}") + (", smoothed" if query.smooth else "")
    pairs = run.spec.get("heldout", {}).get("pairs")
    session.close()  # drawing takes a while and needs no connection

    def draw(form: Form) -> bytes:
        from service.api.curves.figure import draw_curves  # imports matplotlib: 0.3 s

        return draw_curves(curves, title, form, pairs=pairs, zeros=bool(query.metrics))

    return respond(accept, _renderers(curves, partial(service.table, curves), draw))


@router.get(
    "/curves",
    summary="Compare the curves of several runs",
    response_model=Comparison,
    responses={200: {"content": CONTENT}, **problems(404, 406)},
)
@declare(Scope.READ)
def compare_curves(query: Annotated[ComparisonQuery, Query()], session: SessionDep, accept: Accept = None) -> Response:
    """Return the metrics of runs and groups of seeds over optimizer steps, NFE or seconds.

    A group is shown as the mean of its runs with a band. Each run is smoothed before averaging. Over steps, the mean at
    each step includes the runs that have a value there. Over NFE and seconds, runs have different x values. Each run is
    therefore interpolated linearly between its finite values on a common grid. The grid consists of every x of the
    group's runs between the greatest first x and the smallest last x, or of `max_points` evenly spaced points if there
    are more x values than that. Points whose x does not increase are omitted. Steps whose x is unknown are omitted as
    well, and `warnings` lists the affected runs.
    """
    from service.api.curves.comparison import compare, table  # imports numpy: 0.1 s

    comparison = compare(session, query)
    session.close()  # drawing takes a while and needs no connection

    def draw(form: Form) -> bytes:
        from service.api.curves.figure import draw_comparison  # imports matplotlib: 0.3 s

        return draw_comparison(comparison, query.width_mm, form)

    return respond(accept, _renderers(comparison, lambda: table(comparison), draw))


def _renderers(
    content: BaseModel, table: Callable[[], str], draw: Callable[[Form], bytes]
) -> dict[str, Callable[[], str | bytes]]:
    """Return the renderer for each media type of curves."""
    return {
        "application/json": content.model_dump_json,
        "text/csv": table,
        "image/png": partial(draw, "png"),
        "image/svg+xml": partial(draw, "svg"),
    }
