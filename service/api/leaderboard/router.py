"""`/leaderboard`: models ranked on a benchmark."""

from typing import Annotated

from fastapi import APIRouter, Header, Query, Response

from service.api.dependencies import SessionDep
from service.api.leaderboard import figure, service
from service.api.leaderboard.schemas import Leaderboard, LeaderboardQuery
from service.api.routing import ApiRoute, declare
from service.auth.principal import Scope
from service.http.content_negotiation import choose
from service.http.errors import problems

router = APIRouter(tags=["benchmarks"], route_class=ApiRoute)

_TEXT = {"schema": {"type": "string"}}
_CONTENT = {
    "text/csv": _TEXT,
    "text/markdown": _TEXT,
    "image/png": {"schema": {"type": "string", "format": "binary"}},
}
_OFFERED = ("application/json", *_CONTENT)


@router.get(
    "/leaderboard",
    operation_id="getLeaderboard",
    summary="The leaderboard of a benchmark",
    response_model=Leaderboard,
    responses={200: {"content": _CONTENT}, **problems(404, 406, 422)},
)
@declare(Scope.READ, cacheable=True)
def get_leaderboard(
    query: Annotated[LeaderboardQuery, Query()],
    session: SessionDep,
    accept: Annotated[str | None, Header(description="JSON, `text/csv`, `text/markdown` or `image/png`.")] = None,
) -> Response:
    """The ten dimensions and their mean, percent, with the best and the second value of each column marked.

    Only rows of one judge, one benchmark's content, one protocol, and the same number of images and seeds are ranked
    together. Rows that others published are marked as such and say where they come from; of a tie both have the mark.
    Evaluations here are ranked once they have succeeded, the newest of each model, checkpoint and settings; those of a
    part of the prompts are left out.
    """
    media_type = choose(accept, _OFFERED)
    board = service.leaderboard(session, query.benchmark)
    session.close()  # drawing takes a while, and needs no connection
    made: str | bytes
    match media_type:
        case "text/csv":
            made = service.csv_table(board)
        case "text/markdown":
            made = service.markdown(board)
        case "image/png":
            made = figure.draw(board)
        case _:
            made = board.model_dump_json()
    charset = "; charset=utf-8" if media_type.startswith("text/") else ""
    return Response(made, media_type=media_type + charset, headers={"Vary": "Accept"})
