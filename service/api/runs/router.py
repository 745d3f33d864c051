"""`/runs`: alignment runs."""

import uuid
from typing import Annotated, Any

from fastapi import APIRouter, Body, Query, Request, Response

from service.api.dependencies import CatalogDep, DatabaseDep, QueueDep, SessionDep
from service.api.idempotency import IdempotentRequestDep
from service.api.routing import ApiRoute, declare
from service.api.runs import lifecycle, service
from service.api.runs.schemas import (
    AttemptFilters,
    AttemptView,
    Resumption,
    RunChanges,
    RunFilters,
    RunSummary,
    RunView,
)
from service.auth.principal import PrincipalDep, Scope
from service.contracts.runs import RunSpec
from service.http.errors import problems
from service.http.openapi_links import FIRST_ID, ID, RUN, links
from service.http.pagination import Page

router = APIRouter(prefix="/runs", tags=["runs"], route_class=ApiRoute)

LOCATION = {"Location": {"description": "Where to ask for its state.", "schema": {"type": "string"}}}
ACCEPTED: dict[str, Any] = {"headers": LOCATION, "links": links(*RUN, run_id=ID)}
FIRST: dict[str, Any] = {"links": links(*RUN, run_id=FIRST_ID)}
EXAMPLE = {
    "preset": "shapes",
    "name": "first try",
    "labels": {"paper": "table-2"},
    "algorithm": {"granularities": [1, 2, 3], "sde_steps": [0, 1, 2, 3], "group_size": 12, "eta": 0.7},
    "rewards": [{"name": "clip_score", "weight": 1.0}, {"name": "shapes_verifier", "weight": 1.0}],
    "training": {"max_steps": 60, "seed": 42},
}


@router.post(
    "",
    status_code=202,
    operation_id="createRun",
    summary="Start an alignment run",
    responses={202: ACCEPTED, **problems(409, 410, 413, 422)},
)
@declare(Scope.WRITE)
def create_run(
    spec: Annotated[RunSpec, Body(openapi_examples={"shapes": {"summary": "The bundled world", "value": EXAMPLE}})],
    request: Request,
    response: Response,
    session: SessionDep,
    database: DatabaseDep,
    catalog: CatalogDep,
    queue: QueueDep,
    principal: PrincipalDep,
    idempotency: IdempotentRequestDep,
) -> RunView:
    """Accept a run: it is checked as a whole, stored, and taken by a worker as soon as one is free.

    A preset fills what is not said; explicit fields win; the answer shows the resolved spec and its planned cost.
    """
    run = service.create(session, database, catalog, queue, spec, request.state.body, principal, idempotency)
    response.headers["Location"] = f"/runs/{run.id}"
    return run


@router.get("", operation_id="listRuns", summary="List runs", responses={200: FIRST, **problems(422)})
@declare(Scope.READ, cacheable=True)
def list_runs(filters: Annotated[RunFilters, Query()], session: SessionDep) -> Page[RunSummary]:
    """Runs, newest first, by state, algorithm, model, labels and time of creation."""
    return service.listing(session, filters)


@router.get("/{run_id}", operation_id="getRun", summary="Show a run", responses=problems(404, 422))
@declare(Scope.READ, cacheable=True)
def get_run(run_id: uuid.UUID, session: SessionDep) -> RunView:
    """Where a run stands: progress, place in the queue, estimated time, resources, planned cost, newest metrics."""
    return service.show(session, run_id)


@router.patch("/{run_id}", operation_id="changeRun", summary="Change a run", responses=problems(404, 422))
@declare(Scope.WRITE)
def change_run(
    run_id: uuid.UUID,
    changes: Annotated[RunChanges, Body(openapi_examples={"notes": {"value": {"notes": "the best so far"}}})],
    session: SessionDep,
) -> RunView:
    """Change its name, notes, labels or priority; what is unsaid stays."""
    lifecycle.change(session, run_id, changes)
    return service.show(session, run_id)


@router.delete(
    "/{run_id}",
    status_code=204,
    operation_id="deleteRun",
    summary="Delete a run",
    responses=problems(404, 409, 422),
)
@declare(Scope.WRITE)
def delete_run(run_id: uuid.UUID, session: SessionDep) -> None:
    """Delete a paused or ended run with everything recorded of it: curves, rewards, images, logs, checkpoints.

    One of whose checkpoints something else started, or draws, is refused.
    """
    lifecycle.delete(session, run_id)


@router.get(
    "/{run_id}/attempts", operation_id="listAttempts", summary="Attempts at a run", responses=problems(404, 422)
)
@declare(Scope.READ, cacheable=True)
def list_attempts(
    run_id: uuid.UUID, filters: Annotated[AttemptFilters, Query()], session: SessionDep
) -> Page[AttemptView]:
    """Every try at a run, newest first: who, on what, with which versions and weights, and how it ended."""
    return lifecycle.attempts(session, run_id, filters)


@router.post(
    "/{run_id}/cancel",
    status_code=202,
    operation_id="cancelRun",
    summary="Cancel a run",
    responses=problems(404, 409, 422),
)
@declare(Scope.WRITE)
def cancel_run(run_id: uuid.UUID, session: SessionDep, idempotency: IdempotentRequestDep) -> RunView:
    """Ask for a run's end. A waiting run is cancelled at once, a running one at its next batch.

    Asking twice changes nothing, and a run that has ended is answered as it is.
    """
    lifecycle.cancel(session, run_id, idempotency)
    return service.show(session, run_id)


@router.post(
    "/{run_id}/pause",
    status_code=202,
    operation_id="pauseRun",
    summary="Pause a run",
    responses=problems(404, 409, 422),
)
@declare(Scope.WRITE)
def pause_run(run_id: uuid.UUID, session: SessionDep, idempotency: IdempotentRequestDep) -> RunView:
    """Have a run saved after its last whole step and its device freed: `pausing`, then `paused`.

    A waiting run rests at once. Asking twice changes nothing; a run that has ended is refused.
    """
    lifecycle.pause(session, run_id, idempotency)
    return service.show(session, run_id)


@router.post(
    "/{run_id}/resume",
    status_code=202,
    operation_id="resumeRun",
    summary="Go on with a run",
    responses=problems(404, 409, 413, 422),
)
@declare(Scope.WRITE)
def resume_run(
    run_id: uuid.UUID,
    session: SessionDep,
    database: DatabaseDep,
    catalog: CatalogDep,
    queue: QueueDep,
    idempotency: IdempotentRequestDep,
    wanted: Annotated[Resumption | None, Body(openapi_examples={"longer": {"value": {"max_steps": 120}}})] = None,
) -> RunView:
    """Queue a paused or ended run again; it goes on from its newest checkpoint exactly where it stopped.

    Only `max_steps` may be another number. A run that waits or works is refused, and so is one without a checkpoint.
    """
    lifecycle.resume(session, database, catalog, queue, run_id, wanted or Resumption(), idempotency)
    return service.show(session, run_id)


@router.post(
    "/{run_id}/checkpoint",
    status_code=202,
    operation_id="saveRun",
    summary="Save a running run",
    responses=problems(404, 409, 422),
)
@declare(Scope.WRITE)
def save_run(run_id: uuid.UUID, session: SessionDep, idempotency: IdempotentRequestDep) -> RunView:
    """Ask for a checkpoint after the current step, out of turn; `checkpoint_pending` tells until it is stored."""
    lifecycle.save(session, run_id, idempotency)
    return service.show(session, run_id)


@router.post(
    "/{run_id}/clone",
    status_code=202,
    operation_id="cloneRun",
    summary="Start a run like another",
    responses={202: ACCEPTED, **problems(404, 409, 410, 413, 422)},
)
@declare(Scope.WRITE)
def clone_run(
    run_id: uuid.UUID,
    response: Response,
    session: SessionDep,
    database: DatabaseDep,
    catalog: CatalogDep,
    queue: QueueDep,
    principal: PrincipalDep,
    idempotency: IdempotentRequestDep,
    overrides: Annotated[
        dict[str, Any] | None,
        Body(
            description="Fields of a run's spec that are to be others; objects merge field by field.",
            openapi_examples={"seed": {"value": {"name": "another seed", "training": {"seed": 43}}}},
        ),
    ] = None,
) -> RunView:
    """Start a new run with the resolved spec of another, some fields changed. To go on from its weights, say
    `start_from` with one of its checkpoints."""
    run = lifecycle.clone(session, database, catalog, queue, run_id, overrides or {}, principal, idempotency)
    response.headers["Location"] = f"/runs/{run.id}"
    return run
