"""`/evaluations`: models judged on benchmarks."""

import uuid
from typing import Annotated

from fastapi import APIRouter, Body, Query, Request, Response

from service.api.dependencies import CatalogDep, DatabaseDep, QueueDep, SessionDep
from service.api.evaluations import service
from service.api.evaluations.schemas import EvaluationFilters, EvaluationSummary, EvaluationView
from service.api.idempotency import IdempotentRequestDep
from service.api.routing import ApiRoute, declare
from service.api.runs.router import LOCATION
from service.auth.principal import PrincipalDep, Scope
from service.contracts.evaluations import EvaluationSpec
from service.http.errors import problems
from service.http.openapi_links import EVALUATION, FIRST_ID, ID, links
from service.http.pagination import Page

router = APIRouter(prefix="/evaluations", tags=["evaluations"], route_class=ApiRoute)

EXAMPLE = {
    "name": "the base",
    "model": "shapes-flux-2",
    "benchmark": "shapes-bench",
    "judge": "perception",
    "limit": 20,
}
REWARDS = {"benchmark": "shapes-bench", "judge": None, "rewards": ["clip_score_2"], "limit": 20, "num_images": 1}


@router.post(
    "",
    status_code=202,
    operation_id="createEvaluation",
    summary="Judge a model on a benchmark",
    responses={
        202: {"headers": LOCATION, "links": links(*EVALUATION, evaluation_id=ID)},
        **problems(409, 410, 413, 422),
    },
)
@declare(Scope.WRITE)
def create_evaluation(
    spec: Annotated[
        EvaluationSpec,
        Body(
            openapi_examples={
                "judged": {"summary": "The bundled world's own benchmark", "value": EXAMPLE},
                "rewards": {"summary": "Rewards on the benchmark's prompts, without a judge", "value": REWARDS},
            }
        ),
    ],
    request: Request,
    response: Response,
    session: SessionDep,
    database: DatabaseDep,
    catalog: CatalogDep,
    queue: QueueDep,
    principal: PrincipalDep,
    idempotency: IdempotentRequestDep,
) -> EvaluationView:
    """Draw the benchmark's images with their official names and seeds, and have them judged while others are drawn.

    Every image and every raw answer is kept. An answer that cannot be read is asked for again, and counted where it
    stays so: scores are never guessed.
    """
    made = service.create(session, database, catalog, queue, spec, request.state.body, principal, idempotency)
    response.headers["Location"] = f"/evaluations/{made.id}"
    return made


@router.get(
    "",
    operation_id="listEvaluations",
    summary="List evaluations",
    responses={200: {"links": links(*EVALUATION, evaluation_id=FIRST_ID)}, **problems(422)},
)
@declare(Scope.READ, cacheable=True)
def list_evaluations(filters: Annotated[EvaluationFilters, Query()], session: SessionDep) -> Page[EvaluationSummary]:
    """Evaluations, newest first, by state, model, checkpoint, benchmark and time of creation."""
    return service.listing(session, filters)


@router.get(
    "/{evaluation_id}", operation_id="getEvaluation", summary="Show an evaluation", responses=problems(404, 422)
)
@declare(Scope.READ, cacheable=True)
def get_evaluation(evaluation_id: uuid.UUID, session: SessionDep) -> EvaluationView:
    """Where an evaluation stands and, once it has ended, its scores by dimension with intervals and failures."""
    return service.show(session, evaluation_id)


@router.post(
    "/{evaluation_id}/cancel",
    status_code=202,
    operation_id="cancelEvaluation",
    summary="Cancel an evaluation",
    responses=problems(404, 409, 422),
)
@declare(Scope.WRITE)
def cancel_evaluation(
    evaluation_id: uuid.UUID, session: SessionDep, idempotency: IdempotentRequestDep
) -> EvaluationView:
    """Ask for an evaluation's end; what was drawn and judged stays, and resuming goes on from there.

    Asking twice changes nothing, and one that has ended is answered as it is.
    """
    service.cancel(session, evaluation_id, idempotency)
    return service.show(session, evaluation_id)


@router.post(
    "/{evaluation_id}/resume",
    status_code=202,
    operation_id="resumeEvaluation",
    summary="Go on with an evaluation",
    responses=problems(404, 409, 413, 422),
)
@declare(Scope.WRITE)
def resume_evaluation(
    evaluation_id: uuid.UUID,
    session: SessionDep,
    database: DatabaseDep,
    queue: QueueDep,
    idempotency: IdempotentRequestDep,
) -> EvaluationView:
    """Queue an ended evaluation again. Only what is missing is drawn, and only images without a readable answer are
    judged; one that lacks nothing is refused."""
    service.resume(session, database, queue, evaluation_id, idempotency)
    return service.show(session, evaluation_id)


@router.delete(
    "/{evaluation_id}",
    status_code=204,
    operation_id="deleteEvaluation",
    summary="Delete an evaluation",
    responses=problems(404, 409, 422),
)
@declare(Scope.WRITE)
def delete_evaluation(evaluation_id: uuid.UUID, session: SessionDep) -> None:
    """Delete an ended evaluation with its images, answers, scores and place in the leaderboard."""
    service.delete(session, evaluation_id)
