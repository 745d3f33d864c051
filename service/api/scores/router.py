"""`/score` and `/scores`: reward computation for images."""

import uuid
from typing import Annotated

from fastapi import APIRouter, Body, Query

from service.api import jobs
from service.api.dependencies import SessionDep
from service.api.idempotency import IdempotentRequestDep
from service.api.jobs import JobRequestDep, LongPollDep
from service.api.routing import LOCATION, MAX_VALUES, ApiRoute, declare
from service.api.scores import service
from service.api.scores.schemas import ScoreSummary, ScoreView
from service.auth.principal import Scope
from service.contracts.scores import ScoreSpec
from service.db.models import Score
from service.http.errors import problems
from service.http.pagination import Page
from service.jobs.views import JobFilters

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
        200: {"model": ScoreView, "description": "The score ended within the given time."},
        202: LOCATION,
        **problems(409, 410),
    },
)
@declare(Scope.WRITE, max_body="max_body_bytes", max_values=MAX_VALUES)
async def score(
    spec: Annotated[ScoreSpec, Body(openapi_examples={"given": {"summary": "One image", "value": EXAMPLE}})],
    request: JobRequestDep,
    poll: LongPollDep,
) -> ScoreView:
    """Score images with rewards from the catalog.

    The images are sent in the request (PNG, JPEG or WebP) or taken from a generation. They are converted to 8-bit RGB,
    with transparent areas on a white background. If a reward fails for an image, its value is null and the response
    contains the cause; other values are not affected.
    """
    return await poll.create(Score, lambda session: service.create(session, request, spec), service.show)


@router.get("/scores", summary="List scores")
@declare(Scope.READ, cacheable=True)
def list_scores(filters: Annotated[JobFilters, Query()], session: SessionDep) -> Page[ScoreSummary]:
    """Return scores, newest first, filtered by status and creation time."""
    return service.list_scores(session, filters)


@router.get("/scores/{score_id}", summary="Show a score")
@declare(Scope.READ, cacheable=True)
async def get_score(score_id: uuid.UUID, poll: LongPollDep) -> ScoreView:
    """Return the status of a score, the versions of its rewards, and the values computed so far."""
    return await poll.show(Score, score_id, service.show)


@router.post("/scores/{score_id}/cancel", status_code=202, summary="Cancel a score", responses=problems(409))
@declare(Scope.WRITE)
def cancel_score(score_id: uuid.UUID, session: SessionDep, idempotency: IdempotentRequestDep) -> ScoreView:
    """Request cancellation. The request is idempotent; a score that has ended is returned unchanged."""
    jobs.cancel(session, Score, score_id, idempotency)
    return service.show(session, score_id)


@router.delete("/scores/{score_id}", status_code=204, summary="Delete a score", responses=problems(409))
@declare(Scope.WRITE)
def delete_score(score_id: uuid.UUID, session: SessionDep) -> None:
    """Delete a score that has ended, including its values and uploaded images. Images of a generation are kept."""
    jobs.delete(session, jobs.find_deletable(session, Score, score_id))
