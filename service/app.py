"""The API: `uvicorn --factory service.app:create_app`."""

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import structlog
from fastapi import FastAPI
from fastapi.concurrency import run_in_threadpool
from fastapi.openapi.utils import get_openapi
from fastapi.routing import APIRoute
from fastapi_offline import FastAPIOffline

from service.api.benchmarks.router import router as benchmarks
from service.api.catalog.router import router as catalog
from service.api.checkpoints.router import router as checkpoints
from service.api.curves.comparison_router import router as comparisons
from service.api.curves.router import router as curves
from service.api.evaluations.results_router import router as judgements
from service.api.evaluations.router import router as evaluations
from service.api.events.router import router as events
from service.api.events.stream import Streams
from service.api.generations.router import router as generations
from service.api.keys.router import router as keys
from service.api.leaderboard.router import router as leaderboard
from service.api.logs.router import router as logs
from service.api.plans.router import router as plans
from service.api.prompt_sets.router import router as prompt_sets
from service.api.runs.reward_groups import router as rewards
from service.api.runs.router import router as runs
from service.api.runs.samples import router as samples
from service.api.scores.router import router as scores
from service.auth.authenticator import Admission
from service.auth.openapi import declare_keys
from service.auth.scopes import DOCS_ASSETS
from service.core import logging as service_logging
from service.core.catalog_loader import Offer
from service.core.settings import Settings, unknown_variables
from service.db.session import connect
from service.http import errors
from service.http.routing import Routes
from service.jobs.long_poll import JobWaiter
from service.jobs.queue import Queue
from service.middleware.authentication import Gate
from service.middleware.request import RequestMiddleware
from service.observability.health.router import router as health
from service.observability.metrics.registry import make_registry
from service.observability.metrics.requests import MetricsMiddleware
from service.observability.metrics.router import router as metrics

DESCRIPTION = """Aligns flow text-to-image models with human preference by G²RPO, and draws images from the result.

Errors are `application/problem+json`; every answer carries `X-Request-ID`; lists come in pages."""

log = structlog.get_logger()

IDLE_SECONDS = 60.0
"""An API process that hangs in a transaction, or whose machine vanished, keeps nobody waiting for longer."""
ROUTERS = (
    *(runs, events, curves, comparisons, rewards, samples, logs),
    *(checkpoints, generations, scores, evaluations, judgements, benchmarks, leaderboard),
    *(catalog, prompt_sets, plans, keys, health, metrics),
)


def create_app(settings: Settings | None = None) -> FastAPI:
    """The service on `settings`, else the environment's. It starts without database and broker, and finds them."""
    settings = settings or Settings()
    service_logging.configure(settings.log_level)
    for variable, meant in unknown_variables(os.environ).items():
        log.warning("setting.unknown", variable=variable, did_you_mean=meant)
    app = FastAPIOffline(  # FastAPI, but that the page `/docs` and its files come from here
        redoc_url=None,
        static_url=DOCS_ASSETS,
        swagger_ui_parameters={"validatorUrl": None},  # else the page has the document checked elsewhere
        title="G²RPO",
        version=_version(),
        description=DESCRIPTION,
        lifespan=_lifespan,
        redirect_slashes=False,
    )
    app.state.database = connect(settings, idle_seconds=IDLE_SECONDS)
    app.state.registry = make_registry(app.state.database, app.version)
    app.state.catalog = Offer(settings.catalog)
    app.state.queue = Queue(settings)
    app.state.admission = Admission(app.state.database)
    app.state.waiter = JobWaiter(app.state.database.engine)
    app.state.streams = Streams(settings.max_streams)
    api_routes = [route for router in ROUTERS for route in router.routes if isinstance(route, APIRoute)]
    routes = Routes(api_routes)
    app.router.routes += [routes, *api_routes]  # `include_router` would search each router twice a request
    app.add_middleware(Gate, state=app.state, routes=routes)
    app.add_middleware(
        RequestMiddleware,
        max_body_bytes=settings.max_body_bytes,
        max_upload_bytes=settings.max_upload_bytes,
        max_results_bytes=settings.max_results_bytes,
        max_prompt_set_bytes=settings.max_prompt_set_bytes,
    )
    app.add_middleware(MetricsMiddleware, registry=app.state.registry)  # around everything else
    errors.install(app, api_routes)
    app.openapi = lambda: _openapi(app)  # type: ignore[method-assign]
    return app


@contextlib.asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncIterator[None]:
    listening = asyncio.create_task(app.state.waiter.run())
    await run_in_threadpool(app.state.admission.begin)
    yield
    listening.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await listening
    await app.state.admission.close()
    app.state.queue.close()
    app.state.database.close()


def _openapi(app: FastAPI) -> dict[str, Any]:
    """The schema, with the problem model that every route's error answers point to."""
    if app.openapi_schema is None:
        schema = get_openapi(title=app.title, version=app.version, description=app.description, routes=app.routes)
        problem = errors.Problem.model_json_schema(ref_template="#/components/schemas/{model}")
        schemas = schema["components"]["schemas"]
        schemas.update(problem.pop("$defs"))
        schemas["Problem"] = problem
        declare_keys(schema)
        app.openapi_schema = schema
    return app.openapi_schema


def _version() -> str:
    try:
        return version("g2rpo")
    except PackageNotFoundError:
        return "0.0.0"
