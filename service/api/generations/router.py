"""`/generate` and `/generations`: image generation on request."""

import uuid
from typing import Annotated

from fastapi import APIRouter, Body, Path, Query, Request, Response

from service.api import jobs
from service.api.dependencies import DatabaseDep, SessionDep
from service.api.generations import service
from service.api.generations.schemas import GenerationSummary, GenerationView
from service.api.idempotency import IdempotentRequestDep
from service.api.jobs import JobRequestDep, LongPollDep
from service.api.routing import LOCATION, ApiRoute, declare
from service.auth.principal import Scope
from service.contracts.generations import GenerationSpec
from service.db.models import Generation
from service.http.errors import problems
from service.http.image_response import PNG, image_response
from service.http.pagination import Page
from service.jobs.views import JobFilters

router = APIRouter(tags=["generations"], route_class=ApiRoute)

EXAMPLE = {"checkpoints": ["base"], "prompts": ["a red circle left of a blue square"], "num_images": 2, "seed": 7}
ImageNumber = Annotated[int, Path(ge=0, le=2**31 - 1, description="The `number` of the image.")]


@router.post(
    "/generate",
    status_code=202,
    summary="Generate images",
    responses={
        200: {"model": GenerationView, "description": "The generation ended within the given time."},
        202: LOCATION,
        **problems(409, 410),
    },
)
@declare(Scope.WRITE)
async def generate(
    spec: Annotated[GenerationSpec, Body(openapi_examples={"base": {"summary": "Two images", "value": EXAMPLE}})],
    request: JobRequestDep,
    poll: LongPollDep,
) -> GenerationView:
    """Generate images for the same prompts and seeds from one or more checkpoints.

    Image j of a prompt starts from the same noise for every checkpoint, so any differences are due to the checkpoints.
    With `Prefer: wait=N`, the request waits up to N seconds: the status is 200 if the generation has ended by then and
    202 otherwise. `Location` is the path of the generation.
    """
    return await poll.create(Generation, lambda session: service.create(session, request, spec), service.show)


@router.get("/generations", summary="List generations")
@declare(Scope.READ, cacheable=True)
def list_generations(filters: Annotated[JobFilters, Query()], session: SessionDep) -> Page[GenerationSummary]:
    """Return generations, newest first, filtered by status and creation time."""
    return service.list_generations(session, filters)


@router.get("/generations/{generation_id}", summary="Show a generation")
@declare(Scope.READ, cacheable=True)
async def get_generation(generation_id: uuid.UUID, poll: LongPollDep) -> GenerationView:
    """Return the status of a generation and the images generated so far."""
    return await poll.show(Generation, generation_id, service.show)


@router.get(
    "/generations/{generation_id}/images/{number}",
    summary="Download an image of a generation",
    response_class=Response,
    responses={**PNG, **problems(409)},
)
@declare(Scope.READ)
def get_generation_image(
    generation_id: uuid.UUID, number: ImageNumber, request: Request, database: DatabaseDep, session: SessionDep
) -> Response:
    """Return the PNG, which contains the prompt, seed and checkpoint in its metadata."""
    row = service.image(session, generation_id, number)
    return image_response(request, database.artifacts, row.key, row.sha256)


@router.get(
    "/generations/{generation_id}/grid.png",
    summary="Show all images of a generation side by side",
    response_class=Response,
    responses={**PNG, **problems(406, 409)},
)
@declare(Scope.READ)
def get_generation_grid(generation_id: uuid.UUID, database: DatabaseDep, session: SessionDep) -> Response:
    """Return a labeled grid with one row per prompt and seed, and one column per checkpoint."""
    return Response(service.grid(session, database, generation_id), media_type="image/png")


@router.post(
    "/generations/{generation_id}/cancel", status_code=202, summary="Cancel a generation", responses=problems(409)
)
@declare(Scope.WRITE)
def cancel_generation(
    generation_id: uuid.UUID, session: SessionDep, idempotency: IdempotentRequestDep
) -> GenerationView:
    """Request cancellation. The request is idempotent; a generation that has ended is returned unchanged."""
    jobs.cancel(session, Generation, generation_id, idempotency)
    return service.show(session, generation_id)


@router.delete("/generations/{generation_id}", status_code=204, summary="Delete a generation", responses=problems(409))
@declare(Scope.WRITE)
def delete_generation(generation_id: uuid.UUID, session: SessionDep) -> None:
    """Delete a generation that has ended, including its images. Scores of these images are kept."""
    service.delete(session, generation_id)
