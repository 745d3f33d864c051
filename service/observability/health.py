"""Routes `/`, `/healthz` and `/readyz`: report whether the process is alive and whether the service is ready."""

from typing import Annotated, Literal

from fastapi import APIRouter, Header, Response
from fastapi.responses import JSONResponse
from pydantic import BaseModel

from service.api.dependencies import CatalogLoaderDep, DatabaseDep, QueueDep
from service.api.routing import ApiRoute, declare
from service.auth.principal import ANONYMOUS, PrincipalDep
from service.core.catalog_loader import CatalogLoader
from service.db.session import Database
from service.http.content_negotiation import choose
from service.http.errors import NotReady, ReadinessCheck, problems
from service.http.links import link
from service.jobs.queue import Queue
from service.observability import checks
from service.web.pages import index_page

router = APIRouter(tags=["health"], route_class=ApiRoute)


class Index(BaseModel):
    """Links to the main pages and resources of the service."""

    service: str = "g2rpo"
    docs: str = "/docs"
    openapi: str = "/openapi.json"
    catalog: str = "/catalog"
    runs: str = "/runs"


class Alive(BaseModel):
    """Response of a process that is alive."""

    status: Literal["ok"] = "ok"


class Ready(BaseModel):
    """Response of a service whose dependencies are all available."""

    status: Literal["ready"] = "ready"
    checks: list[ReadinessCheck]


@router.get(
    "/", summary="Dashboard, or links to the service's main resources", response_model=Index, responses=problems(406)
)
@declare(None)
def get_index(accept: Annotated[str | None, Header()] = None) -> Response:
    """Return the dashboard to a browser, and links to the main pages and resources of the service to a program."""
    if choose(accept, ("application/json", "text/html")) == "text/html":
        return index_page()
    links = {name: link(path) for name, path in Index().model_dump(exclude={"service"}).items()}
    return JSONResponse({"service": "g2rpo", **links}, headers={"Vary": "Accept"})


@router.get("/healthz", summary="Whether the process is alive")
@declare(None)
async def get_health() -> Alive:
    """Respond as long as the process is alive, regardless of the state of its dependencies."""
    return Alive()


@router.get("/readyz", summary="Whether the service is ready")
@declare(None)
def get_readiness(database: DatabaseDep, queue: QueueDep, loader: CatalogLoaderDep, principal: PrincipalDep) -> Ready:
    """Check the database, schema, broker, artifact store and catalog.

    If a check fails, the response has the status 503 and says what is wrong and how to fix it. Workers are checked as
    well, but are not required: without workers, the service accepts jobs, which then wait. Requests from other machines
    without a key only get the name and result of each check.
    """
    return readiness(database, queue, loader, details=principal is not ANONYMOUS)


def readiness(database: Database, queue: Queue, loader: CatalogLoader, details: bool = True) -> Ready:
    """Run all checks and return their results. Raises NotReady, with the results, if a check has failed.

    If `details` is false, the results contain only the name and outcome of each check, without causes and addresses.
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
