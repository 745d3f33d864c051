"""`/runs`: alignment runs."""

import uuid
from typing import Annotated, Any

from fastapi import APIRouter, Body, Query, Response

from service.api import jobs
from service.api.dependencies import SessionDep
from service.api.idempotency import IdempotentRequestDep
from service.api.jobs import JobRequestDep, show_created
from service.api.routing import LOCATION, MAX_VALUES, ApiRoute, declare
from service.api.runs import service
from service.api.runs.schemas import AttemptView, ResumeRequest, RunChanges, RunFilters, RunSummary, RunView
from service.auth.principal import Scope
from service.contracts.runs import RunSpec
from service.db.models import Run
from service.http.errors import problems
from service.http.pagination import Page, PageQuery

router = APIRouter(prefix="/runs", tags=["runs"], route_class=ApiRoute)

EXAMPLE = {
    "preset": "shapes",
    "name": "first try",
    "labels": {"paper": "table-2"},
    "algorithm": {"granularities": [1, 2, 3], "sde_steps": [0, 1, 2, 3], "group_size": 12, "eta": 0.7},
    "rewards": [{"name": "clip_score", "weight": 1.0}, {"name": "shapes_verifier", "weight": 1.0}],
    "training": {"max_steps": 60, "seed": 42},
}


@router.post("", status_code=202, summary="Start an alignment run", responses={202: LOCATION, **problems(409, 410)})
@declare(Scope.WRITE, max_body="max_body_bytes", max_values=MAX_VALUES)
def create_run(
    spec: Annotated[RunSpec, Body(openapi_examples={"shapes": {"summary": "The bundled world", "value": EXAMPLE}})],
    request: JobRequestDep,
    response: Response,
    session: SessionDep,
) -> RunView:
    """Validate and queue a run. The next free worker claims it.

    A preset provides values for fields that the request omits. The response contains the resolved spec and its planned
    cost.
    """
    return show_created(response, session, Run, service.create(session, request, spec), service.show)


@router.get("", summary="List runs")
@declare(Scope.READ, cacheable=True)
def list_runs(filters: Annotated[RunFilters, Query()], session: SessionDep) -> Page[RunSummary]:
    """Return runs, newest first, filtered by status, algorithm, model, labels and creation time."""
    return service.list_runs(session, filters)


@router.get("/{run_id}", summary="Show a run")
@declare(Scope.READ, cacheable=True)
def get_run(run_id: uuid.UUID, session: SessionDep) -> RunView:
    """Return the state of a run.

    It includes the progress, queue position, estimated remaining time, resources, planned cost and latest metrics.
    """
    return service.show(session, run_id)


@router.patch("/{run_id}", summary="Change a run")
@declare(Scope.WRITE)
def change_run(
    run_id: uuid.UUID,
    changes: Annotated[RunChanges, Body(openapi_examples={"notes": {"value": {"notes": "the best so far"}}})],
    session: SessionDep,
) -> RunView:
    """Change the name, notes, labels or priority. Omitted fields keep their value."""
    service.change(session, run_id, changes)
    return service.show(session, run_id)


@router.delete("/{run_id}", status_code=204, summary="Delete a run", responses=problems(409))
@declare(Scope.WRITE)
def delete_run(run_id: uuid.UUID, session: SessionDep) -> None:
    """Delete a paused or ended run, including its curves, rewards, images, logs and checkpoints.

    A run cannot be deleted while another run or an open job uses one of its checkpoints.
    """
    service.delete(session, run_id)


@router.get("/{run_id}/attempts", summary="List attempts of a run")
@declare(Scope.READ, cacheable=True)
def list_attempts(run_id: uuid.UUID, query: Annotated[PageQuery, Query()], session: SessionDep) -> Page[AttemptView]:
    """Return attempts, newest first, with their worker, device, package versions, weights and outcome."""
    return service.list_attempts(session, run_id, query)


@router.post("/{run_id}/cancel", status_code=202, summary="Cancel a run", responses=problems(409))
@declare(Scope.WRITE)
def cancel_run(run_id: uuid.UUID, session: SessionDep, idempotency: IdempotentRequestDep) -> RunView:
    """Request cancellation. A queued run is cancelled immediately, and a running run at its next batch.

    The request is idempotent; a run that has ended is returned unchanged.
    """
    jobs.cancel(session, Run, run_id, idempotency)
    return service.show(session, run_id)


@router.post("/{run_id}/pause", status_code=202, summary="Pause a run", responses=problems(409))
@declare(Scope.WRITE)
def pause_run(run_id: uuid.UUID, session: SessionDep, idempotency: IdempotentRequestDep) -> RunView:
    """Save a checkpoint after the current step and release the device.

    The status is `pausing` until the checkpoint is saved, then `paused`. A queued run is paused immediately. The
    request is idempotent; a run that has ended cannot be paused.
    """
    service.pause(session, run_id, idempotency)
    return service.show(session, run_id)


@router.post("/{run_id}/resume", status_code=202, summary="Resume a run", responses=problems(409))
@declare(Scope.WRITE)
def resume_run(
    run_id: uuid.UUID,
    session: SessionDep,
    request: JobRequestDep,
    changes: Annotated[ResumeRequest | None, Body(openapi_examples={"longer": {"value": {"max_steps": 120}}})] = None,
) -> RunView:
    """Queue a paused or ended run again. It continues exactly from its newest intact checkpoint.

    Only `max_steps` can be changed. A queued or running run cannot be resumed. Neither can an ended run that has no
    checkpoint.
    """
    service.resume(session, request, run_id, changes or ResumeRequest())
    return service.show(session, run_id)


@router.post("/{run_id}/checkpoint", status_code=202, summary="Save a checkpoint of a run", responses=problems(409))
@declare(Scope.WRITE)
def save_run(run_id: uuid.UUID, session: SessionDep, idempotency: IdempotentRequestDep) -> RunView:
    """Request a checkpoint after the current step. `checkpoint_pending` is true until the checkpoint is stored."""
    service.save(session, run_id, idempotency)
    return service.show(session, run_id)


@router.post("/{run_id}/clone", status_code=202, summary="Clone a run", responses={202: LOCATION, **problems(409, 410)})
@declare(Scope.WRITE, max_body="max_body_bytes", max_values=MAX_VALUES)
def clone_run(
    run_id: uuid.UUID,
    response: Response,
    session: SessionDep,
    request: JobRequestDep,
    overrides: Annotated[
        dict[str, Any] | None,
        Body(
            description="Spec fields to change. Objects are merged field by field.",
            openapi_examples={"seed": {"value": {"name": "another seed", "training": {"seed": 43}}}},
        ),
    ] = None,
) -> RunView:
    """Start a new run with the resolved spec of another run, with some fields changed.

    To start from the weights of the other run, set `start_from` to one of its checkpoints.
    """
    id = service.clone(session, request, run_id, overrides or {})
    return show_created(response, session, Run, id, service.show)
