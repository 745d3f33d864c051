"""`/runs/{run_id}/samples`: pictures worth looking at."""

import uuid
from typing import Annotated

from fastapi import APIRouter, Query, Request, Response

from service.api.dependencies import DatabaseDep, SessionDep
from service.api.runs import sample_service
from service.api.runs.sample_schemas import SampleFilters, SampleView
from service.http.errors import problems
from service.http.image_response import PNG, picture
from service.http.openapi_links import FIRST_ID, links
from service.http.pagination import Page
from service.http.thread_route import ThreadRoute

router = APIRouter(prefix="/runs/{run_id}/samples", tags=["samples"], route_class=ThreadRoute)

PICTURE = links("getSampleImage", run_id="$request.path.run_id", sample_id=FIRST_ID)


@router.get(
    "",
    operation_id="listSamples",
    summary="Sample pictures of a run",
    responses={200: {"links": PICTURE}, **problems(404, 422)},
)
def list_samples(
    run_id: uuid.UUID, filters: Annotated[SampleFilters, Query()], session: SessionDep
) -> Page[SampleView]:
    """Held-out pictures at each evaluation, and the best and worst of a group with their rewards."""
    return sample_service.samples(session, run_id, filters)


@router.get(
    "/{sample_id}/image",
    operation_id="getSampleImage",
    summary="The picture of a sample",
    response_class=Response,
    responses={**PNG, **problems(404, 422)},
)
def get_sample_image(
    run_id: uuid.UUID, sample_id: uuid.UUID, request: Request, database: DatabaseDep, session: SessionDep
) -> Response:
    """The PNG as the run drew it, checked against its hash."""
    row = sample_service.sample(session, run_id, sample_id)
    return picture(request, database.artifacts, row.key, row.sha256)
