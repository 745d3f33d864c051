"""`/evaluations/{evaluation_id}/…`: what evaluations found."""

import itertools
import uuid
from typing import Annotated

from fastapi import APIRouter, Header, Path, Query, Request, Response
from fastapi.responses import StreamingResponse

from service.api.dependencies import DatabaseDep, SessionDep
from service.api.evaluations import export, gallery, gallery_page, image_grid, results
from service.api.evaluations.results_schemas import (
    AnswerFilters,
    AnswerView,
    CompareQuery,
    EvaluationComparison,
    EvaluationImageView,
    GalleryQuery,
    ImageFilters,
)
from service.api.routing import ApiRoute, declare
from service.auth.principal import Scope
from service.http.content_negotiation import choose
from service.http.errors import NotAcceptable, problems
from service.http.image_response import PNG, image_response
from service.http.openapi_links import links
from service.http.pagination import Page

router = APIRouter(prefix="/evaluations/{evaluation_id}", tags=["evaluations"], route_class=ApiRoute)

PromptIndex = Annotated[int, Path(ge=0, le=999_999, description="The prompt's number in the benchmark.")]
ImageNumber = Annotated[int, Path(ge=0, le=15, description="The image's number among those of the prompt.")]
_TEXT = {"schema": {"type": "string"}}
_COUNTS = {"type": "object", "additionalProperties": {"type": "object"}}
_SUMMARY = {"schema": {"type": "object", "properties": {"primary_dimensions": _COUNTS, "sub_dimensions": _COUNTS}}}
_IMAGE = links(
    "getImage",
    evaluation_id="$request.path.evaluation_id",
    index="$response.body#/items/0/index",
    image_index="$response.body#/items/0/image",
)


@router.get(
    "/answers",
    operation_id="listAnswers",
    summary="The answers of an evaluation",
    responses={200: {"links": _IMAGE}, **problems(404, 422)},
)
@declare(Scope.READ, cacheable=True)
def list_answers(
    evaluation_id: uuid.UUID, filters: Annotated[AnswerFilters, Query()], session: SessionDep
) -> Page[AnswerView]:
    """What the judge said of each image: its words, and a score for each test point.

    `met=false&dimension=Text Generation` shows where a text went wrong; `failure=…` what could not be read.
    """
    return results.answers(session, evaluation_id, filters)


@router.get(
    "/images",
    operation_id="listImages",
    summary="The images of an evaluation",
    responses={200: {"links": _IMAGE}, **problems(404, 422)},
)
@declare(Scope.READ, cacheable=True)
def list_images(
    evaluation_id: uuid.UUID, filters: Annotated[ImageFilters, Query()], session: SessionDep
) -> Page[EvaluationImageView]:
    """Every image drawn so far, with its seed and rewards."""
    return results.images(session, evaluation_id, filters)


@router.get(
    "/images/{index}/{image_index}",
    operation_id="getImage",
    summary="An image of an evaluation",
    response_class=Response,
    responses={**PNG, **problems(404, 409, 422)},
)
@declare(Scope.READ)
def get_image(
    evaluation_id: uuid.UUID,
    index: PromptIndex,
    image_index: ImageNumber,
    request: Request,
    database: DatabaseDep,
    session: SessionDep,
) -> Response:
    """The PNG as the judge got it, checked against its hash."""
    row = results.image(session, evaluation_id, index, image_index)
    return image_response(request, database.artifacts, row.key, row.sha256)


@router.get(
    "/export",
    operation_id="exportEvaluation",
    summary="The official result file of an evaluation",
    response_class=Response,
    responses={200: {"content": {"text/csv": _TEXT, "application/json": _SUMMARY}}, **problems(404, 406, 409, 422)},
)
@declare(Scope.READ)
def export_evaluation(
    evaluation_id: uuid.UUID,
    database: DatabaseDep,
    session: SessionDep,
    accept: Annotated[str | None, Header(description="`text/csv` or `application/json`.")] = None,
) -> Response:
    """The newest answers, as the official scripts write them: `text/csv` has a row per image, `application/json` the
    counts by dimension. Their own scripts, and `POST /benchmarks/{name}/rescore`, make the same scores of it.

    An answer that could not be read has `null` for its result, which those scripts leave out.
    """
    headers = {"Vary": "Accept"}
    media_type = choose(accept, ("text/csv", "application/json"))
    if media_type == "application/json":
        return Response(export.summary(session, evaluation_id), media_type=media_type, headers=headers)
    rows = export.rows(database, evaluation_id)
    heading = next(rows)  # what forbids it is told before the answer begins
    headers["Content-Disposition"] = f'attachment; filename="{evaluation_id}.csv"'
    return StreamingResponse(itertools.chain([heading], rows), media_type="text/csv; charset=utf-8", headers=headers)


@router.get(
    "/comparison/{second_id}",
    operation_id="compareEvaluations",
    summary="Two evaluations compared",
    responses=problems(404, 409, 422),
)
@declare(Scope.READ)
def compare_evaluations(
    evaluation_id: uuid.UUID,
    second_id: uuid.UUID,
    query: Annotated[CompareQuery, Query()],
    session: SessionDep,
) -> EvaluationComparison:
    """The second evaluation less the first, on the prompts that both have, with 95% paired bootstrap intervals.

    Both must have ended, be of the same benchmark's content, and have the same judge: others do not compare. What else
    differs between them is told in `warnings`.
    """
    from service.api.evaluations.comparison import comparison  # numpy, which no other route has to load

    return comparison(session, evaluation_id, second_id, query)


@router.get(
    "/gallery",
    operation_id="getGallery",
    summary="Images of an evaluation, or of several side by side",
    response_class=Response,
    responses={
        200: {"content": {**PNG[200]["content"], "text/html": _TEXT}},
        **problems(404, 406, 422),
    },
)
@declare(Scope.READ)
def get_gallery(
    evaluation_id: uuid.UUID,
    query: Annotated[GalleryQuery, Query()],
    database: DatabaseDep,
    session: SessionDep,
    accept: Annotated[str | None, Header(description="`image/png` or `text/html`.")] = None,
) -> Response:
    """Prompts drawn by lot, or named, with their images and the test points that each met.

    Alone, an evaluation has a column for each seed; with others, there is a column for each evaluation, and in a row
    all have the same prompt and the same image's number: where their seeds are the same, they began with the same
    noise. The page is one file without scripts.
    """
    media_type = choose(accept, ("image/png", "text/html"))
    most = database.settings.max_grid_pixels
    shown = gallery.gallery(session, evaluation_id, query, most)
    session.close()  # reading and drawing take a while, and need no connection
    headers = {"Vary": "Accept"}
    if media_type == "text/html":
        return StreamingResponse(
            gallery_page.html(shown, database.artifacts),
            media_type="text/html; charset=utf-8",
            headers=headers | gallery_page.HEADERS,
        )
    try:
        drawn = gallery_page.png(shown, database.artifacts, most)
    except image_grid.GridTooLarge as error:
        raise NotAcceptable(f"{error}; ask for fewer images") from error
    return Response(drawn, media_type=media_type, headers=headers)
