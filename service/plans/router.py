"""`/plans`: what a run would cost."""

from typing import Annotated

from fastapi import APIRouter, Body

from service.contracts.plan import Plan
from service.contracts.runs import RunSpec
from service.dependencies import CatalogDep, SessionDep, SettingsDep
from service.errors import problems
from service.idempotency import OnceDep
from service.json_route import JsonRoute
from service.naming import warned_plan
from service.runs.router import EXAMPLE

router = APIRouter(tags=["plans"], route_class=JsonRoute)


@router.post("/plans", operation_id="makePlan", summary="Plan a run", responses=problems(413, 422))
def make_a_plan(
    spec: Annotated[RunSpec, Body(openapi_examples={"shapes": {"summary": "The bundled world", "value": EXAMPLE}})],
    session: SessionDep,
    settings: SettingsDep,
    catalog: CatalogDep,
    _once: OnceDep,
) -> Plan:
    """The spec a run would have, and its cost: evaluations of the network by part, beside the paper's formula; memory
    by phase and part, time, warnings. Nothing is stored: names that the catalog lacks, and devices that would not do,
    are warnings here and refusals of a run."""
    return warned_plan(session, settings, catalog, spec)
