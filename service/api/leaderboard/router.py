"""`/leaderboard`: model rankings on a benchmark."""

from typing import Annotated

from fastapi import APIRouter, Header, Query, Response

from service.api.dependencies import SessionDep
from service.api.leaderboard import service
from service.api.leaderboard.schemas import Leaderboard, LeaderboardQuery
from service.api.routing import ApiRoute, declare
from service.auth.principal import Scope
from service.http.content_negotiation import openapi_content, respond
from service.http.errors import problems

router = APIRouter(tags=["benchmarks"], route_class=ApiRoute)


@router.get(
    "/leaderboard",
    summary="Show the leaderboard of a benchmark",
    response_model=Leaderboard,
    responses={200: {"content": openapi_content("text/csv", "text/markdown", "image/png")}, **problems(404, 406)},
)
@declare(Scope.READ, cacheable=True)
def get_leaderboard(
    query: Annotated[LeaderboardQuery, Query()],
    session: SessionDep,
    accept: Annotated[str | None, Header(description="JSON, `text/csv`, `text/markdown` or `image/png`.")] = None,
) -> Response:
    """Return the ten dimensions and their mean in percent, with the best and second-best value per column marked.

    Rows are ranked together if they have the same judge, benchmark content, protocol, number of images and seeds.
    Published rows are marked and cite their source. Equal values share a mark. For each combination of model,
    checkpoint and settings, only the newest succeeded evaluation of this service is ranked. Evaluations that cover only
    some of the prompts are omitted.
    """
    board = service.leaderboard(session, query.benchmark)
    session.close()  # drawing takes a while and needs no connection

    def png() -> bytes:
        from service.api.leaderboard.figure import draw  # imports matplotlib: 0.3 s

        return draw(board)

    return respond(
        accept,
        {
            "application/json": board.model_dump_json,
            "text/csv": lambda: service.csv_table(board),
            "text/markdown": lambda: service.markdown(board),
            "image/png": png,
        },
    )
