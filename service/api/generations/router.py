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
from service.api.routing import ApiRoute, declare
from service.api.runs.router import LOCATION
from service.auth.principal import PrincipalDep, Scope
from service.contracts.generations import GenerationSpec
from service.db.models import Generation
from service.http.content_negotiation import PreferHeader
from service.http.errors import NotAcceptable, problems
from service.http.image_response import PNG, image_response
from service.http.openapi_links import FIRST_ID, GENERATION, ID, links
from service.http.pagination import Page
from service.jobs import views
from service.jobs.long_poll import wait_for_end

router = APIRouter(tags=["generations"], route_class=ApiRoute)

EXAMPLE = {"checkpoints": ["base"], "prompts": ["a red circle left of a blue square"], "num_images": 2, "seed": 7}
ImageNumber = Annotated[int, Path(ge=0, le=2**31 - 1, description="The image's `number`.")]


@router.post(
    "/generate",
    status_code=202,
    operation_id="generate",
    summary="Draw images",
    responses={
        200: {"model": GenerationView, "description": "It ended within the asked time."},
        202: {"headers": LOCATION, "links": links(*GENERATION, generation_id=ID)},
        **problems(409, 410, 413, 422),
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
    """Draw the same prompts with the same seeds from one or several checkpoints.

    Image j of a prompt begins with the same noise for every checkpoint, so differences are the checkpoints'. With
    `Prefer: wait=N` the answer is 200 once it has ended, else 202 after N seconds; ask `Location` for the rest.
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


@router.get(
    "/generations",
    operation_id="listGenerations",
    summary="List generations",
    responses={200: {"links": links(*GENERATION, generation_id=FIRST_ID)}, **problems(422)},
)
@declare(Scope.READ, cacheable=True)
def list_generations(filters: Annotated[GenerationFilters, Query()], session: SessionDep) -> Page[GenerationSummary]:
    """Generations, newest first, by state and time of creation."""
    return service.listing(session, filters)


@router.get(
    "/generations/{generation_id}",
    operation_id="getGeneration",
    summary="Show a generation",
    responses=problems(404, 422),
)
@declare(Scope.READ, cacheable=True)
async def get_generation(
    generation_id: uuid.UUID,
    response: Response,
    database: DatabaseDep,
    waiter: WaiterDep,
    prefer: PreferHeader = None,
) -> GenerationView:
    """Where a generation stands, and the images drawn so far."""

    def shown() -> GenerationView:
        with database.sessions() as session:
            return service.show(session, generation_id)

    found = await run_in_threadpool(shown)
    await wait_for_end(prefer, response, database, waiter, Generation, generation_id)
    return await run_in_threadpool(shown) if prefer else found


@router.get(
    "/generations/{generation_id}/images/{number}",
    operation_id="getGenerationImage",
    summary="An image of a generation",
    response_class=Response,
    responses={**PNG, **problems(404, 409, 422)},
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
    operation_id="getGenerationGrid",
    summary="All images of a generation side by side",
    response_class=Response,
    responses={**PNG, **problems(404, 406, 409, 422)},
)
@declare(Scope.READ)
def get_generation_grid(generation_id: uuid.UUID, database: DatabaseDep, session: SessionDep) -> Response:
    """A row per prompt and seed, a column per checkpoint, labelled."""
    shown, images, labels = service.comparison(session, generation_id)
    session.close()  # reading and drawing take a while, and need no connection
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
        raise NotAcceptable(f"{error}; fetch the images one by one") from error
    return Response(drawn, media_type="image/png")


@router.post(
    "/generations/{generation_id}/cancel",
    status_code=202,
    operation_id="cancelGeneration",
    summary="Cancel a generation",
    responses=problems(404, 409, 422),
)
@declare(Scope.WRITE)
def cancel_generation(
    generation_id: uuid.UUID, session: SessionDep, idempotency: IdempotentRequestDep
) -> GenerationView:
    """Ask for a generation's end. Asking twice changes nothing; one that has ended is answered as it is."""
    return service.cancel(session, generation_id, idempotency)


@router.delete(
    "/generations/{generation_id}",
    status_code=204,
    operation_id="deleteGeneration",
    summary="Delete a generation",
    responses=problems(404, 409, 422),
)
@declare(Scope.WRITE)
def delete_generation(generation_id: uuid.UUID, session: SessionDep) -> None:
    """Delete an ended generation with its images; what rewards said of them stays."""
    service.delete(session, generation_id)
