"""`/plans`: cost estimates for runs."""

from typing import Annotated

from fastapi import APIRouter, Body

from service.api.dependencies import CatalogDep, SessionDep, SettingsDep
from service.api.idempotency import IdempotentRequestDep
from service.api.routing import MAX_VALUES, ApiRoute, declare
from service.api.runs.router import EXAMPLE
from service.auth.principal import Scope
from service.contracts.plan import Plan
from service.contracts.runs import RunSpec
from service.jobs.validation import warned_plan

router = APIRouter(tags=["plans"], route_class=ApiRoute)


@router.post("/plans", summary="Plan a run")
@declare(Scope.READ, max_body="max_body_bytes", max_values=MAX_VALUES, reads_only=True)
def make_plan(
    spec: Annotated[RunSpec, Body(openapi_examples={"shapes": {"summary": "The bundled world", "value": EXAMPLE}})],
    session: SessionDep,
    settings: SettingsDep,
    catalog: CatalogDep,
    _idempotency: IdempotentRequestDep,
) -> Plan:
    """Resolve a run spec and estimate its cost: NFE by part according to the paper's formula, memory and time.

    Nothing is stored. Unknown names and unsuitable devices are reported as warnings here, but are errors when a run is
    created.
    """
    return warned_plan(session, settings, catalog, spec)
