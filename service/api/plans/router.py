"""`/plans`: what a run would cost."""

from typing import Annotated

from fastapi import APIRouter, Body

from service.api.dependencies import CatalogDep, SessionDep, SettingsDep
from service.api.idempotency import OnceDep
from service.api.runs.router import EXAMPLE
from service.contracts.plan import Plan
from service.contracts.runs import RunSpec
from service.http.errors import problems
from service.http.routing import JsonRoute
from service.jobs.validation import warned_plan

router = APIRouter(tags=["plans"], route_class=JsonRoute)


@router.post("/plans", operation_id="makePlan", summary="Plan a run", responses=problems(413, 422))
def make_a_plan(
    spec: Annotated[RunSpec, Body(openapi_examples={"shapes": {"summary": "The bundled world", "value": EXAMPLE}})],
    session: SessionDep,
    settings: SettingsDep,
    catalog: CatalogDep,
    _once: OnceDep,
) -> Plan:
    """The spec a run would have, and its cost: NFE by part, beside the paper's formula; memory
    by phase and part, time, warnings. Nothing is stored: names that the catalog lacks, and devices that would not do,
    are warnings here and refusals of a run."""
    return warned_plan(session, settings, catalog, spec)
