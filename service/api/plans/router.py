"""`/plans`: what a run would cost."""

from typing import Annotated

from fastapi import APIRouter, Body

from service.api.dependencies import CatalogDep, SessionDep, SettingsDep
from service.api.idempotency import IdempotentRequestDep
from service.api.routing import ApiRoute, declare
from service.api.runs.router import EXAMPLE
from service.auth.principal import Scope
from service.contracts.plan import Plan
from service.contracts.runs import RunSpec
from service.http.errors import problems
from service.jobs.validation import warned_plan

router = APIRouter(tags=["plans"], route_class=ApiRoute)


@router.post("/plans", operation_id="makePlan", summary="Plan a run", responses=problems(413, 422))
@declare(Scope.READ, reads_only=True)
def make_a_plan(
    spec: Annotated[RunSpec, Body(openapi_examples={"shapes": {"summary": "The bundled world", "value": EXAMPLE}})],
    session: SessionDep,
    settings: SettingsDep,
    catalog: CatalogDep,
    _idempotency: IdempotentRequestDep,
) -> Plan:
    """The spec a run would have, and its cost: NFE by part, beside the paper's formula; memory
    by phase and part, time, warnings. Nothing is stored: names that the catalog lacks, and devices that would not do,
    are warnings here and refusals of a run."""
    return warned_plan(session, settings, catalog, spec)
