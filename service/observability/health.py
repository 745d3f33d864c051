"""`/`, `/healthz`, `/readyz`: whether the process is alive, and whether the service can work."""

from typing import Literal

from fastapi import APIRouter
from pydantic import BaseModel

from service.api.dependencies import CatalogLoaderDep, DatabaseDep, QueueDep
from service.api.routing import ApiRoute, declare
from service.auth.principal import ANONYMOUS, PrincipalDep
from service.core.catalog_loader import CatalogLoader
from service.db.session import Database
from service.http.errors import NotReady, ReadinessCheck
from service.jobs.queue import Queue
from service.observability import checks

router = APIRouter(tags=["health"], route_class=ApiRoute)


class Index(BaseModel):
    """Links into the service."""

    service: str = "g2rpo"
    docs: str = "/docs"
    openapi: str = "/openapi.json"
    catalog: str = "/catalog"
    runs: str = "/runs"


class Alive(BaseModel):
    """The process responds."""

    status: Literal["ok"] = "ok"


class Ready(BaseModel):
    """All dependencies of the service are available."""

    status: Literal["ready"] = "ready"
    checks: list[ReadinessCheck]


@router.get("/", summary="Links into the service")
@declare(None)
def get_index() -> Index:
    """Links into the service."""
    return Index()


@router.get("/healthz", summary="Whether the process is alive")
@declare(None)
async def get_health() -> Alive:
    """Responds while the process is alive, whatever the state of its dependencies."""
    return Alive()


@router.get("/readyz", summary="Whether the service can work")
@declare(None)
def get_readiness(database: DatabaseDep, queue: QueueDep, loader: CatalogLoaderDep, principal: PrincipalDep) -> Ready:
    """Checks database, schema, broker and artifact store; a 503 names what is missing and how to fix it.

    Workers are checked too, but the service is ready without workers: jobs are accepted and wait. Other machines that
    send no key see only the names of the checks and their results.
    """
    return readiness(database, queue, loader, details=principal is not ANONYMOUS)


def readiness(database: Database, queue: Queue, loader: CatalogLoader, details: bool = True) -> Ready:
    """The results of all checks. Raises NotReady, with these results, if one has failed.

    Without `details` the results name what is missing, without the cause and the addresses.
    """
    workers = checks.run("workers", lambda: checks.workers(database))
    results = [
        checks.run("database", lambda: checks.database(database)),
        checks.run("schema", lambda: checks.schema(database)),
        checks.run("broker", lambda: checks.broker(queue)),
        checks.run("storage", lambda: checks.storage(database), checks.STORAGE_HINT),
        checks.run("catalog", lambda: checks.catalog(loader)),
        workers.model_copy(update={"ok": True}),  # without workers, jobs are accepted and wait
    ]
    if not details:
        results = [ReadinessCheck(name=result.name, ok=result.ok, detail="") for result in results]
    failed = [result for result in results if not result.ok]
    if failed:
        causes = [f"{result.name}: {result.detail}" for result in failed if result.hint]
        detail = "; ".join(causes) or f"missing: {', '.join(result.name for result in failed)}"
        raise NotReady(detail, checks=[result.model_dump() for result in results])
    return Ready(checks=results)
