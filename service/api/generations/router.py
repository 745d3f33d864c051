"""`/generate` and `/generations`: images on request."""

import uuid
from functools import partial
from typing import Annotated

from fastapi import APIRouter, Body, Path, Query, Request, Response
from fastapi.concurrency import run_in_threadpool

from service.api.dependencies import CatalogDep, DatabaseDep, QueueDep, SessionDep, WaiterDep
from service.api.evaluations import image_grid
from service.api.generations import service
from service.api.generations.schemas import GenerationFilters, GenerationSummary, GenerationView
from service.api.idempotency import IdempotentRequestDep
from service.api.routing import LOCATION, ApiRoute, declare
from service.auth.principal import PrincipalDep, Scope
from service.contracts.generations import GenerationSpec
from service.db.models import Generation
from service.http.content_negotiation import PreferHeader
from service.http.errors import NotAcceptable, problems
from service.http.image_response import PNG, image_response
from service.http.pagination import Page
from service.jobs import views
from service.jobs.long_poll import wait_for_end

router = APIRouter(tags=["generations"], route_class=ApiRoute)

EXAMPLE = {"checkpoints": ["base"], "prompts": ["a red circle left of a blue square"], "num_images": 2, "seed": 7}
ImageNumber = Annotated[int, Path(ge=0, le=2**31 - 1, description="`number` of the image.")]


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
    request: Request,
    response: Response,
    database: DatabaseDep,
    catalog: CatalogDep,
    queue: QueueDep,
    waiter: WaiterDep,
    principal: PrincipalDep,
    idempotency: IdempotentRequestDep,
    prefer: PreferHeader = None,
) -> GenerationView:
    """Generate images of the same prompts with the same seeds from one or several checkpoints.

    Image j of a prompt starts with the same noise for every checkpoint, so differences come from the checkpoints. With
    `Prefer: wait=N` the status is 200 when the generation has ended, and 202 after N seconds; `Location` has its
    state.
    """

    def accept() -> uuid.UUID:
        with database.sessions() as session:
            return service.create(session, database, catalog, queue, spec, request.state.body, principal, idempotency)

    def shown() -> GenerationView:
        with database.sessions() as session, views.made_by_this_request(Generation, generation):
            return service.show(session, generation)

    generation = await run_in_threadpool(accept)
    response.headers["Location"] = f"/generations/{generation}"
    if await wait_for_end(prefer, response, database, waiter, Generation, generation):
        response.status_code = 200
    return await run_in_threadpool(shown)


@router.get("/generations", summary="List generations")
@declare(Scope.READ, cacheable=True)
def list_generations(filters: Annotated[GenerationFilters, Query()], session: SessionDep) -> Page[GenerationSummary]:
    """Generations, newest first, filtered by status and creation time."""
    return service.listing(session, filters)


@router.get("/generations/{generation_id}", summary="Show a generation")
@declare(Scope.READ, cacheable=True)
async def get_generation(
    generation_id: uuid.UUID,
    response: Response,
    database: DatabaseDep,
    waiter: WaiterDep,
    prefer: PreferHeader = None,
) -> GenerationView:
    """The status of a generation and the images generated so far."""

    def shown() -> GenerationView:
        with database.sessions() as session:
            return service.show(session, generation_id)

    found = await run_in_threadpool(shown)
    await wait_for_end(prefer, response, database, waiter, Generation, generation_id)
    return await run_in_threadpool(shown) if prefer else found


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
    """The PNG, with prompt, seed and checkpoint in its metadata."""
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
    """One row per prompt and seed, one column per checkpoint, with labels."""
    shown, images, labels = service.comparison(session, generation_id)
    session.close()  # release the connection while the grid is rendered
    spec, per_checkpoint = shown.spec, len(shown.spec["prompts"]) * shown.spec["num_images"]
    rows = []
    for place in range(per_checkpoint):
        column = [images.get(index * per_checkpoint + place) for index in range(len(labels))]
        prompt = spec["prompts"][place // spec["num_images"]]
        seeds = sorted({image.seed for image in column if image})
        label = f"{prompt} (seed {', '.join(map(str, seeds))})"
        read = database.artifacts.read
        rows.append(
            image_grid.Row(label, [partial(read, image.key, image.sha256) if image else None for image in column])
        )
    most = database.settings.max_grid_pixels
    try:
        drawn = image_grid.draw(list(labels.values()), rows, spec["width"], spec["height"], most)
    except image_grid.GridTooLarge as error:
        raise NotAcceptable(f"{error}; download the images one by one") from error
    return Response(drawn, media_type="image/png")


@router.post(
    "/generations/{generation_id}/cancel", status_code=202, summary="Cancel a generation", responses=problems(409)
)
@declare(Scope.WRITE)
def cancel_generation(
    generation_id: uuid.UUID, session: SessionDep, idempotency: IdempotentRequestDep
) -> GenerationView:
    """Request cancellation. The request is idempotent, and an ended generation is returned unchanged."""
    return service.cancel(session, generation_id, idempotency)


@router.delete("/generations/{generation_id}", status_code=204, summary="Delete a generation", responses=problems(409))
@declare(Scope.WRITE)
def delete_generation(generation_id: uuid.UUID, session: SessionDep) -> None:
    """Delete an ended generation with its images; scorings of these images are not deleted."""
    service.delete(session, generation_id)
