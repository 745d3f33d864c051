"""`/runs`: alignment runs."""

import uuid
from typing import Annotated

from fastapi import APIRouter, Body, Query, Request, Response

from service.contracts.runs import RunSpec
from service.dependencies import CatalogDep, QueueDep, SessionDep, SettingsDep
from service.errors import problems
from service.idempotency import OnceDep
from service.json_route import JsonRoute
from service.keys.caller import CallerDep
from service.pages import Page
from service.runs import service
from service.runs.schemas import RunFilters, RunSummary, RunView

router = APIRouter(prefix="/runs", tags=["runs"], route_class=JsonRoute)

LOCATION = {"Location": {"description": "Where to ask for its state.", "schema": {"type": "string"}}}
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
    responses={202: {"headers": LOCATION}, **problems(409, 413, 422)},
)
def create_run(
    spec: Annotated[RunSpec, Body(openapi_examples={"shapes": {"summary": "The bundled world", "value": EXAMPLE}})],
    request: Request,
    response: Response,
    session: SessionDep,
    settings: SettingsDep,
    catalog: CatalogDep,
    queue: QueueDep,
    caller: CallerDep,
    once: OnceDep,
) -> RunView:
    """Accept a run: it is checked as a whole, stored, and taken by a worker as soon as one is free.

    A preset fills what is not said; explicit fields win; the answer shows the resolved spec and its planned cost.
    """
    run = service.create(session, settings, catalog, queue, spec, request.state.body, caller, once)
    response.headers["Location"] = f"/runs/{run.id}"
    return run


@router.get("", operation_id="listRuns", summary="List runs", responses=problems(422))
def list_runs(filters: Annotated[RunFilters, Query()], session: SessionDep) -> Page[RunSummary]:
    """Runs, newest first, by state, algorithm, model, labels and time of creation."""
    return service.listing(session, filters)


@router.get("/{run_id}", operation_id="getRun", summary="Show a run", responses=problems(404, 422))
def get_run(run_id: uuid.UUID, session: SessionDep) -> RunView:
    """Where a run stands: progress, place in the queue, estimated time, resources, planned cost, newest metrics."""
    return service.show(session, run_id)


@router.post(
    "/{run_id}/cancel",
    status_code=202,
    operation_id="cancelRun",
    summary="Cancel a run",
    responses=problems(404, 409, 422),
)
def cancel_run(run_id: uuid.UUID, session: SessionDep, once: OnceDep) -> RunView:
    """Ask for a run's end. A waiting run is cancelled at once, a running one at its next step boundary.

    Asking twice changes nothing, and a run that has ended is answered as it is.
    """
    return service.cancel(session, run_id, once)
