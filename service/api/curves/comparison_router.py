"""`/curves`: curves of several runs over each other."""

from typing import Annotated

from fastapi import APIRouter, Query, Response

from service.api.curves.comparison_schemas import Comparison, ComparisonQuery
from service.api.curves.router import CONTENT, FORMS, OFFERED, Accept
from service.api.dependencies import SessionDep
from service.api.routing import ApiRoute, declare
from service.auth.principal import Scope
from service.http.content_negotiation import choose
from service.http.errors import problems

router = APIRouter(tags=["curves"], route_class=ApiRoute)


@router.get(
    "/curves",
    operation_id="compareCurves",
    summary="Curves of several runs over each other",
    response_model=Comparison,
    responses={200: {"content": CONTENT}, **problems(404, 406, 422)},
)
@declare(Scope.READ)
def compare_curves(query: Annotated[ComparisonQuery, Query()], session: SessionDep, accept: Accept = None) -> Response:
    """One or a few metrics of runs and of groups of seeds, over optimizer steps, NFE or seconds.

    A group is the mean over its runs, smoothed one by one, with a band. Over steps the mean is of the runs that have a
    value at the step. Over evaluations and seconds, at which runs differ, each run is interpolated linearly between
    its finite values, on a grid common to the group: every x of one of its runs between the greatest first x and the
    least last x of them, or `max_points` evenly spaced ones if these are more. A point whose x is not greater than all
    before it is left out, and so is one of a run that has no such x at its step: `warnings` says of which runs.
    """
    from service.api.curves.comparison_service import compare, table  # numpy: 0.1 s that no other route has to pay

    media_type = choose(accept, OFFERED)
    comparison = compare(session, query)
    session.close()  # drawing takes a while, and needs no connection
    headers = {"Vary": "Accept"}
    if media_type == "text/csv":
        return Response(table(comparison), media_type="text/csv; charset=utf-8", headers=headers)
    if media_type in FORMS:
        from service.api.curves.comparison_figure import draw

        drawn = draw(comparison, query.width_mm, FORMS[media_type])
        return Response(drawn, media_type=media_type, headers=headers)
    return Response(comparison.model_dump_json(), media_type=media_type, headers=headers)
