"""`/score` and `/scores`: rewards of given images."""

import uuid
from typing import Annotated

from fastapi import APIRouter, Body, Query, Request, Response
from fastapi.concurrency import run_in_threadpool

from service.api.dependencies import CatalogDep, DatabaseDep, QueueDep, SessionDep, WaiterDep
from service.api.idempotency import IdempotentRequestDep
from service.api.routing import ApiRoute, declare
from service.api.runs.router import LOCATION
from service.api.scores import service
from service.api.scores.schemas import ScoreFilters, ScoreSummary, ScoreView
from service.auth.principal import PrincipalDep, Scope
from service.contracts.scores import ScoreSpec
from service.db.models import Score
from service.http.content_negotiation import PreferHeader
from service.http.errors import problems
from service.http.openapi_links import FIRST_ID, ID, SCORE, links
from service.http.pagination import Page
from service.jobs import views
from service.jobs.long_poll import wait_for_end

router = APIRouter(tags=["scores"], route_class=ApiRoute)

_IMAGE = (
    "iVBORw0KGgoAAAANSUhEUgAAACAAAAAgAQMAAABJtOi3AAAABlBMVEX////cKCi5uRl6AAAAP0lEQVR42mNgIBawP2BgYuAQYGBiMOBhYGJg"
    "YGBgYnBgYmBg+P8fxsUkGBjq/zEwMRz4B+Pyf2BgYvjxgWhbAagkCbYcG5wGAAAAAElFTkSuQmCC"
)
EXAMPLE = {"rewards": ["clip_score"], "images": [{"prompt": "a red circle", "image": _IMAGE}]}


@router.post(
    "/score",
    status_code=202,
    operation_id="score",
    summary="Score images",
    responses={
        200: {"model": ScoreView, "description": "It ended within the asked time."},
        202: {"headers": LOCATION, "links": links(*SCORE, score_id=ID)},
        **problems(409, 410, 413, 422),
    },
)
@declare(Scope.WRITE)
async def score(
    spec: Annotated[ScoreSpec, Body(openapi_examples={"given": {"summary": "One image", "value": EXAMPLE}})],
    request: Request,
    response: Response,
    database: DatabaseDep,
    catalog: CatalogDep,
    queue: QueueDep,
    waiter: WaiterDep,
    principal: PrincipalDep,
    idempotency: IdempotentRequestDep,
    prefer: PreferHeader = None,
) -> ScoreView:
    """Have rewards of the catalog score images: those in the request (PNG, JPEG, WebP), or a generation's.

    Transparency is put over white, and every image becomes RGB with 8 bits. A reward that fails on an image gives
    null and the cause; the others' values stand.
    """

    def accept() -> uuid.UUID:
        settings, artifacts = database.settings, database.artifacts
        with database.sessions() as session:
            return service.create(session, settings, artifacts, catalog, queue, spec, principal, idempotency)

    def shown() -> ScoreView:
        with database.sessions() as session, views.made_by_this_request(Score, made):
            return service.show(session, made)

    made = await run_in_threadpool(accept)
    response.headers["Location"] = f"/scores/{made}"
    if await wait_for_end(prefer, response, database, waiter, Score, made):
        response.status_code = 200
    return await run_in_threadpool(shown)


@router.get(
    "/scores",
    operation_id="listScores",
    summary="List scorings",
    responses={200: {"links": links(*SCORE, score_id=FIRST_ID)}, **problems(422)},
)
@declare(Scope.READ, cacheable=True)
def list_scores(filters: Annotated[ScoreFilters, Query()], session: SessionDep) -> Page[ScoreSummary]:
    """Scorings, newest first, by state and time of creation."""
    return service.listing(session, filters)


@router.get("/scores/{score_id}", operation_id="getScore", summary="Show a scoring", responses=problems(404, 422))
@declare(Scope.READ, cacheable=True)
async def get_score(
    score_id: uuid.UUID, response: Response, database: DatabaseDep, waiter: WaiterDep, prefer: PreferHeader = None
) -> ScoreView:
    """Where a scoring stands, what computes it, and the values found so far."""

    def shown() -> ScoreView:
        with database.sessions() as session:
            return service.show(session, score_id)

    found = await run_in_threadpool(shown)
    await wait_for_end(prefer, response, database, waiter, Score, score_id)
    return await run_in_threadpool(shown) if prefer else found


@router.post(
    "/scores/{score_id}/cancel",
    status_code=202,
    operation_id="cancelScore",
    summary="Cancel a scoring",
    responses=problems(404, 409, 422),
)
@declare(Scope.WRITE)
def cancel_score(score_id: uuid.UUID, session: SessionDep, idempotency: IdempotentRequestDep) -> ScoreView:
    """Ask for a scoring's end. Asking twice changes nothing; one that has ended is answered as it is."""
    return service.cancel(session, score_id, idempotency)


@router.delete(
    "/scores/{score_id}",
    status_code=204,
    operation_id="deleteScore",
    summary="Delete a scoring",
    responses=problems(404, 409, 422),
)
@declare(Scope.WRITE)
def delete_score(score_id: uuid.UUID, session: SessionDep) -> None:
    """Delete an ended scoring with its values and the images that were sent for it; a generation's stay."""
    service.delete(session, score_id)
