"""Routes under `/evaluations`: evaluations of models on benchmarks, and their results."""

import itertools
import uuid
from typing import Annotated

from fastapi import APIRouter, Body, Header, Path, Query, Request, Response
from fastapi.responses import StreamingResponse

from service.api import jobs
from service.api.benchmarks.schemas import BootstrapQuery
from service.api.dependencies import DatabaseDep, SessionDep
from service.api.evaluations import export, gallery, image_grid, results, service
from service.api.evaluations.schemas import (
    AnswerFilters,
    AnswerView,
    EvaluationComparison,
    EvaluationFilters,
    EvaluationImageView,
    EvaluationSummary,
    EvaluationView,
    GalleryQuery,
    ImageFilters,
)
from service.api.idempotency import IdempotentRequestDep
from service.api.jobs import JobRequestDep, show_created
from service.api.routing import LOCATION, ApiRoute, declare
from service.auth.principal import Scope
from service.contracts.evaluations import EvaluationSpec
from service.db.models import Evaluation
from service.http.content_negotiation import choose, openapi_content
from service.http.errors import NotAcceptable, problems
from service.http.image_response import PNG, image_response
from service.http.pagination import Page

router = APIRouter(prefix="/evaluations", tags=["evaluations"], route_class=ApiRoute)

EXAMPLE = {
    "name": "base model",
    "model": "shapes-flux-2",
    "benchmark": "shapes-bench",
    "judge": "perception",
    "limit": 20,
}
REWARDS = {"benchmark": "shapes-bench", "judge": None, "rewards": ["clip_score_2"], "limit": 20, "num_images": 1}
PromptIndex = Annotated[int, Path(ge=0, le=999_999, description="Index of the prompt in the benchmark.")]
ImageNumber = Annotated[int, Path(ge=0, le=15, description="Index of the image among those of the prompt, from 0.")]
_TEXT = {"schema": {"type": "string"}}
_COUNTS = {"type": "object", "additionalProperties": {"type": "object"}}
_SUMMARY = {"schema": {"type": "object", "properties": {"primary_dimensions": _COUNTS, "sub_dimensions": _COUNTS}}}


@router.post(
    "", status_code=202, summary="Evaluate a model on a benchmark", responses={202: LOCATION, **problems(409, 410)}
)
@declare(Scope.WRITE)
def create_evaluation(
    spec: Annotated[
        EvaluationSpec,
        Body(
            openapi_examples={
                "judged": {"summary": "The bundled benchmark", "value": EXAMPLE},
                "rewards": {"summary": "Rewards on the benchmark's prompts, without a judge", "value": REWARDS},
            }
        ),
    ],
    request: JobRequestDep,
    response: Response,
    session: SessionDep,
) -> EvaluationView:
    """Generate the benchmark's images with the official names and seeds. A judge scores them at the same time.

    All images and raw answers are stored. If an answer is unreadable, the request is repeated. Answers that remain
    unreadable are counted; scores are never guessed.
    """
    return show_created(response, session, Evaluation, service.create(session, request, spec), service.show)


@router.get("", summary="List evaluations")
@declare(Scope.READ, cacheable=True)
def list_evaluations(filters: Annotated[EvaluationFilters, Query()], session: SessionDep) -> Page[EvaluationSummary]:
    """List evaluations, newest first, filtered by status, model, checkpoint, benchmark and creation time."""
    return service.list_evaluations(session, filters)


@router.get("/{evaluation_id}", summary="Show an evaluation")
@declare(Scope.READ, cacheable=True)
def get_evaluation(evaluation_id: uuid.UUID, session: SessionDep) -> EvaluationView:
    """Return the state of an evaluation and, once it has ended, its scores by dimension with intervals."""
    return service.show(session, evaluation_id)


@router.post("/{evaluation_id}/cancel", status_code=202, summary="Cancel an evaluation", responses=problems(409))
@declare(Scope.WRITE)
def cancel_evaluation(
    evaluation_id: uuid.UUID, session: SessionDep, idempotency: IdempotentRequestDep
) -> EvaluationView:
    """Cancel an evaluation. Its images and answers are kept, and it can be resumed.

    Canceling an evaluation that has ended or is already being canceled has no effect.
    """
    jobs.cancel(session, Evaluation, evaluation_id, idempotency)
    return service.show(session, evaluation_id)


@router.post("/{evaluation_id}/resume", status_code=202, summary="Resume an evaluation", responses=problems(409))
@declare(Scope.WRITE)
def resume_evaluation(evaluation_id: uuid.UUID, session: SessionDep, request: JobRequestDep) -> EvaluationView:
    """Queue an evaluation that has ended again, to generate missing images and judge images without a readable answer.

    A complete evaluation cannot be resumed.
    """
    service.resume(session, request, evaluation_id)
    return service.show(session, evaluation_id)


@router.delete("/{evaluation_id}", status_code=204, summary="Delete an evaluation", responses=problems(409))
@declare(Scope.WRITE)
def delete_evaluation(evaluation_id: uuid.UUID, session: SessionDep) -> None:
    """Delete an evaluation that has ended, with its images, answers, scores and leaderboard row."""
    jobs.delete(session, jobs.find_deletable(session, Evaluation, evaluation_id))


@router.get("/{evaluation_id}/answers", summary="List the answers of an evaluation")
@declare(Scope.READ, cacheable=True)
def list_answers(
    evaluation_id: uuid.UUID, filters: Annotated[AnswerFilters, Query()], session: SessionDep
) -> Page[AnswerView]:
    """List the judge's answer for each image: the text and a score for each test point.

    For example, `met=false&dimension=Text Generation` lists images with wrong text, and `failure=…` lists unreadable
    answers.
    """
    return results.answers(session, evaluation_id, filters)


@router.get("/{evaluation_id}/images", summary="List the images of an evaluation")
@declare(Scope.READ, cacheable=True)
def list_images(
    evaluation_id: uuid.UUID, filters: Annotated[ImageFilters, Query()], session: SessionDep
) -> Page[EvaluationImageView]:
    """List all images generated so far, with their seeds and rewards."""
    return results.images(session, evaluation_id, filters)


@router.get(
    "/{evaluation_id}/images/{index}/{image_index}",
    summary="Get an image of an evaluation",
    response_class=Response,
    responses={**PNG, **problems(409)},
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
    """Return the PNG that the judge received, after checking its hash."""
    row = results.image(session, evaluation_id, index, image_index)
    return image_response(request, database.artifacts, row.key, row.sha256)


@router.get(
    "/{evaluation_id}/export",
    summary="Export an evaluation as an official result file",
    response_class=Response,
    responses={200: {"content": {"text/csv": _TEXT, "application/json": _SUMMARY}}, **problems(406, 409)},
)
@declare(Scope.READ)
def export_evaluation(
    evaluation_id: uuid.UUID,
    database: DatabaseDep,
    session: SessionDep,
    accept: Annotated[str | None, Header(description="`text/csv` or `application/json`.")] = None,
) -> Response:
    """Export the newest answers in the format of the official scripts.

    `text/csv` has one row per image, and `application/json` contains the counts by dimension. The official scripts and
    `POST /benchmarks/{name}/rescore` compute the same scores from them. The result of an unreadable answer is `null`,
    which the scripts skip.
    """
    headers = {"Vary": "Accept"}
    media_type = choose(accept, ("text/csv", "application/json"))
    if media_type == "application/json":
        return Response(export.summary(session, evaluation_id), media_type=media_type, headers=headers)
    rows = export.rows(database, evaluation_id)
    header = next(rows)  # raises errors before the response starts
    headers["Content-Disposition"] = f'attachment; filename="{evaluation_id}.csv"'
    return StreamingResponse(itertools.chain([header], rows), media_type=media_type, headers=headers)


@router.get("/{evaluation_id}/comparison/{second_id}", summary="Compare two evaluations", responses=problems(409))
@declare(Scope.READ)
def compare_evaluations(
    evaluation_id: uuid.UUID, second_id: uuid.UUID, query: Annotated[BootstrapQuery, Query()], session: SessionDep
) -> EvaluationComparison:
    """Return the second evaluation minus the first, on their common prompts, with 95% paired bootstrap intervals.

    Both evaluations must have ended and must use the same benchmark content. If both are judged, their judges must be
    the same. `warnings` lists other differences.
    """
    from service.api.evaluations.comparison import comparison  # imports numpy, which other routes do not need

    return comparison(session, evaluation_id, second_id, query)


@router.get(
    "/{evaluation_id}/gallery",
    summary="Show images of one or several evaluations",
    response_class=Response,
    responses={200: {"content": openapi_content("image/png", "text/html")}, **problems(406)},
)
@declare(Scope.READ)
def get_gallery(
    evaluation_id: uuid.UUID,
    query: Annotated[GalleryQuery, Query()],
    database: DatabaseDep,
    session: SessionDep,
    accept: Annotated[str | None, Header(description="`image/png` or `text/html`.")] = None,
) -> Response:
    """Return random or selected prompts with their images and the test points that each image meets.

    A single evaluation has one column per seed. Several evaluations have one column each, and the images in a row have
    the same prompt and image number; if their seeds are equal, they start from the same initial noise. The HTML page is
    a single file without scripts.
    """
    media_type = choose(accept, ("image/png", "text/html"))
    max_pixels = database.settings.max_grid_pixels
    content = gallery.gallery(session, evaluation_id, query, max_pixels)
    session.close()  # reading and drawing take a while and need no connection
    headers = {"Vary": "Accept"}
    if media_type == "text/html":
        return StreamingResponse(
            gallery.html(content, database.artifacts), media_type=media_type, headers=headers | gallery.HEADERS
        )
    try:
        image = gallery.png(content, database.artifacts, max_pixels)
    except image_grid.GridTooLarge as error:
        raise NotAcceptable(f"{error}. Request fewer images") from error
    return Response(image, media_type=media_type, headers=headers)
