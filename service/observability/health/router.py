"""`/`, `/healthz`, `/readyz`: whether the service lives, and whether it can work."""

from fastapi import APIRouter
from pydantic import BaseModel

from service.api.dependencies import DatabaseDep, OfferDep, QueueDep
from service.api.routing import ApiRoute, declare
from service.auth.principal import ANONYMOUS, PrincipalDep
from service.http.errors import problems
from service.observability.health import service
from service.observability.health.schemas import Alive, Ready

router = APIRouter(tags=["health"], route_class=ApiRoute)


class Index(BaseModel):
    """Where to go from here."""

    service: str = "g2rpo"
    docs: str = "/docs"
    openapi: str = "/openapi.json"
    catalog: str = "/catalog"
    runs: str = "/runs"


@router.get("/", operation_id="getIndex", summary="Where to go from here", responses=problems())
@declare(None)
def get_index() -> Index:
    """Links into the service."""
    return Index()


@router.get("/healthz", operation_id="getHealth", summary="Whether the process lives", responses=problems())
@declare(None)
async def get_health() -> Alive:
    """Answers as long as the process does, whatever it stands on."""
    return Alive()


@router.get("/readyz", operation_id="getReadiness", summary="Whether the service can work", responses=problems())
@declare(None)
def get_readiness(database: DatabaseDep, queue: QueueDep, offer: OfferDep, principal: PrincipalDep) -> Ready:
    """Database, schema, broker and artifact store; a 503 says which is missing and how to mend it.

    Workers are looked for too, but without any the service is ready: jobs are accepted, and wait. Other machines that
    show no key are told what is missing, and no more.
    """
    return service.readiness(database, queue, offer, details=principal is not ANONYMOUS)
