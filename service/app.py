"""The API application; start it with `uvicorn --no-proxy-headers --factory service.app:create_app`."""

import asyncio
import contextlib
import gc
import os
from collections.abc import AsyncIterator
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import structlog
from fastapi import FastAPI
from fastapi.concurrency import run_in_threadpool
from fastapi.openapi.utils import get_openapi
from fastapi_offline import FastAPIOffline
from uvicorn.middleware.proxy_headers import ProxyHeadersMiddleware

from service.api.benchmarks.router import router as benchmarks
from service.api.catalog.router import router as catalog
from service.api.checkpoints.router import router as checkpoints
from service.api.curves.router import router as curves
from service.api.evaluations.router import router as evaluations
from service.api.events.router import router as events
from service.api.events.stream import Streams
from service.api.generations.router import router as generations
from service.api.keys.router import router as keys
from service.api.leaderboard.router import router as leaderboard
from service.api.logs.router import router as logs
from service.api.plans.router import router as plans
from service.api.prompt_sets.router import router as prompt_sets
from service.api.routing import SECURITY_SCHEME, ApiRoute
from service.api.runs.reward_groups import router as rewards
from service.api.runs.router import router as runs
from service.api.runs.samples import router as samples
from service.api.scores.router import router as scores
from service.auth.authenticator import Authenticator
from service.core import logging as service_logging
from service.core.catalog_loader import CatalogLoader
from service.core.settings import Settings, unknown_variables
from service.db.session import connect
from service.http import errors
from service.http.response_cache import ResponseCache
from service.jobs.long_poll import JobWaiter
from service.jobs.queue import Queue
from service.middleware.authentication import AuthMiddleware
from service.middleware.head import HeadMiddleware
from service.middleware.path_suffix import PathSuffixMiddleware
from service.middleware.request import RequestMiddleware
from service.observability.health import router as health
from service.observability.metrics import MetricsMiddleware, make_registry
from service.observability.metrics import router as metrics
from service.web import pages

DESCRIPTION = """Aligns flow text-to-image models with human preference by G²RPO, and generates images with them.

Errors are `application/problem+json`; every response has an `X-Request-ID`; lists are paginated."""

log = structlog.get_logger()

IDLE_SECONDS = 60.0
"""Seconds after which the database ends an idle transaction, such as that of a hung or lost API process."""
DOCS_ASSETS = "/docs/assets"
"""The path of the static files used by the page `/docs`."""
PUBLIC = frozenset({"/docs", "/openapi.json"}) | {
    f"{DOCS_ASSETS}/{name}" for name in ("swagger-ui-bundle.js", "swagger-ui.css", "favicon.png")
}
"""Paths that require no key and are not defined in ROUTERS."""
ROUTERS = (
    *(runs, events, curves, rewards, samples, logs),
    *(checkpoints, generations, scores, evaluations, benchmarks, leaderboard),
    *(catalog, prompt_sets, plans, keys, health, metrics),
)


def create_app(settings: Settings | None = None) -> FastAPI:
    """Create the service with `settings`, which default to those from the environment.

    The service starts even if the database or the broker is unavailable.
    """
    settings = settings or Settings()
    service_logging.configure(settings.log_level)
    for variable, meant in unknown_variables(os.environ).items():
        log.warning("setting.unknown", variable=variable, did_you_mean=meant)
    app = FastAPIOffline(  # FastAPI that serves the static files of `/docs` itself
        redoc_url=None,
        static_url=DOCS_ASSETS,
        swagger_ui_parameters={"validatorUrl": None},  # do not send the document to another server
        title="G²RPO",
        version=_version(),
        description=DESCRIPTION,
        lifespan=_lifespan,
        redirect_slashes=False,
    )
    app.state.database = connect(settings, idle_seconds=IDLE_SECONDS)
    app.state.registry = make_registry(app.state.database, app.version)
    app.state.catalog = CatalogLoader(settings.catalog)
    app.state.queue = Queue(settings)
    app.state.authenticator = Authenticator(app.state.database)
    app.state.response_cache = ResponseCache()
    app.state.waiter = JobWaiter(app.state.database.engine)
    app.state.streams = Streams(settings.max_streams)
    app.router.route_class = ApiRoute
    routes = [route for router in ROUTERS for route in router.routes if isinstance(route, ApiRoute)]
    app.router.routes.extend(routes)  # `include_router` would build each route again for each application
    pages.install(app)
    app.add_middleware(
        AuthMiddleware,
        state=app.state,
        routes=routes,
        public=PUBLIC | pages.public_paths() | {route.path for route in routes if route.declaration.scope is None},
        without_database={route.path for route in routes if route.declaration.without_database},
    )
    app.add_middleware(PathSuffixMiddleware)
    app.add_middleware(HeadMiddleware, routes=routes)
    app.add_middleware(RequestMiddleware, root_path=settings.root_path)
    app.add_middleware(MetricsMiddleware, registry=app.state.registry)
    if settings.trusted_proxies:
        app.add_middleware(ProxyHeadersMiddleware, trusted_hosts=settings.trusted_proxies)  # the outermost
    errors.install(app, routes)
    app.openapi = lambda: _openapi(app)  # type: ignore[method-assign]
    return app


@contextlib.asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncIterator[None]:
    listening = asyncio.create_task(app.state.waiter.run())
    await run_in_threadpool(app.state.authenticator.start)
    # A full garbage collection of modules and routes would stop all requests for more than 0.1 s.
    gc.freeze()
    yield
    gc.unfreeze()
    listening.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await listening
    await app.state.authenticator.close()
    app.state.queue.close()
    app.state.database.close()


def _openapi(app: FastAPI) -> dict[str, Any]:
    """Return the OpenAPI document, including the problem model of the error responses and the security scheme."""
    if app.openapi_schema is None:
        schema = get_openapi(title=app.title, version=app.version, description=app.description, routes=app.routes)
        problem = errors.Problem.model_json_schema(ref_template="#/components/schemas/{model}")
        schemas = schema["components"]["schemas"]
        schemas.update(problem.pop("$defs"))
        schemas["Problem"] = problem
        schema["components"]["securitySchemes"] = {"key": SECURITY_SCHEME}
        app.openapi_schema = schema
    return app.openapi_schema


def _version() -> str:
    try:
        return version("g2rpo")
    except PackageNotFoundError:
        return "0.0.0"
