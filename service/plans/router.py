"""`/plans`: what a run would cost."""

from typing import Annotated

from fastapi import APIRouter, Body

from service.contracts.plan import Plan, make_plan
from service.contracts.runs import RunSpec
from service.dependencies import CatalogDep, SettingsDep
from service.errors import Invalid, problems
from service.idempotency import OnceDep
from service.json_route import JsonRoute
from service.naming import check_budget
from service.runs.router import EXAMPLE

router = APIRouter(tags=["plans"], route_class=JsonRoute)


@router.post("/plans", operation_id="makePlan", summary="Plan a run", responses=problems(413, 422))
def make_a_plan(
    spec: Annotated[RunSpec, Body(openapi_examples={"shapes": {"summary": "The bundled world", "value": EXAMPLE}})],
    settings: SettingsDep,
    catalog: CatalogDep,
    _once: OnceDep,
) -> Plan:
    """The spec a run would have, and its cost: evaluations of the network by part, beside the paper's formula; memory
    and time as far as they can be estimated; warnings. Nothing is stored, and names the catalog lacks are warnings."""
    plan = make_plan(spec, catalog)
    if errors := list(check_budget(settings, plan)):
        raise Invalid(errors)
    return plan
