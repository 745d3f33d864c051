"""`/score` and `/scores`: rewards of given images."""

import uuid
from typing import Annotated

from fastapi import APIRouter, Body, Query, Request, Response
from fastapi.concurrency import run_in_threadpool

from service.api.dependencies import CatalogDep, DatabaseDep, QueueDep, SessionDep, WaiterDep
from service.api.idempotency import IdempotentRequestDep
from service.api.routing import LOCATION, ApiRoute, declare
from service.api.scores import service
from service.api.scores.schemas import ScoreFilters, ScoreSummary, ScoreView
from service.auth.principal import PrincipalDep, Scope
from service.contracts.scores import ScoreSpec
from service.db.models import Score
from service.http.content_negotiation import PreferHeader
from service.http.errors import problems
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
    summary="Score images",
    responses={
        200: {"model": ScoreView, "description": "The scoring ended within the given time."},
        202: LOCATION,
        **problems(409, 410),
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
    """Score images with rewards of the catalog: images in the request (PNG, JPEG, WebP) or those of a generation.

    Images are converted to RGB with 8 bits, transparency over white. If a reward fails on an image, its value is null
    and has a cause; other values are not affected.
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


@router.get("/scores", summary="List scorings")
@declare(Scope.READ, cacheable=True)
def list_scores(filters: Annotated[ScoreFilters, Query()], session: SessionDep) -> Page[ScoreSummary]:
    """Scorings, newest first, filtered by status and creation time."""
    return service.listing(session, filters)


@router.get("/scores/{score_id}", summary="Show a scoring")
@declare(Scope.READ, cacheable=True)
async def get_score(
    score_id: uuid.UUID, response: Response, database: DatabaseDep, waiter: WaiterDep, prefer: PreferHeader = None
) -> ScoreView:
    """The status of a scoring, the versions of its rewards, and the values computed so far."""

    def shown() -> ScoreView:
        with database.sessions() as session:
            return service.show(session, score_id)

    found = await run_in_threadpool(shown)
    await wait_for_end(prefer, response, database, waiter, Score, score_id)
    return await run_in_threadpool(shown) if prefer else found


@router.post("/scores/{score_id}/cancel", status_code=202, summary="Cancel a scoring", responses=problems(409))
@declare(Scope.WRITE)
def cancel_score(score_id: uuid.UUID, session: SessionDep, idempotency: IdempotentRequestDep) -> ScoreView:
    """Request cancellation. The request is idempotent, and an ended scoring is returned unchanged."""
    return service.cancel(session, score_id, idempotency)


@router.delete("/scores/{score_id}", status_code=204, summary="Delete a scoring", responses=problems(409))
@declare(Scope.WRITE)
def delete_score(score_id: uuid.UUID, session: SessionDep) -> None:
    """Delete an ended scoring with its values and uploaded images; images of a generation are not deleted."""
    service.delete(session, score_id)
