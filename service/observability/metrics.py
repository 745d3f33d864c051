"""Serve `/metrics` for Prometheus: this process's requests, and the whole service's jobs, checkpoints and workers."""

import time
from http import HTTPMethod
from typing import Annotated, Any

from fastapi import APIRouter, Header, Request, Response
from prometheus_client import (
    CollectorRegistry,
    Gauge,
    GCCollector,
    Histogram,
    Info,
    PlatformCollector,
    ProcessCollector,
)
from prometheus_client.exposition import choose_encoder
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.api.routing import ApiRoute, declare
from service.auth.principal import Scope as KeyScope
from service.db.session import Database
from service.observability.database_metrics import DatabaseCollector

router = APIRouter(tags=["health"], route_class=ApiRoute)

_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0, 60.0)
_OTHER = "other"
"""Label for unknown methods and paths, because clients could otherwise create an unlimited number of labels."""
_TEXT: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "The metrics, in the text format of Prometheus, or of OpenMetrics if the client accepts it.",
        "content": {
            "text/plain": {"schema": {"type": "string"}},
            "application/openmetrics-text": {"schema": {"type": "string"}},
        },
    }
}


def make_registry(database: Database, version: str) -> CollectorRegistry:
    """Create a registry with the metrics of this process and of the service that uses `database`.

    Each application has its own registry.
    """
    registry = CollectorRegistry()
    for collector in (ProcessCollector, PlatformCollector, GCCollector):
        collector(registry=registry)
    Info("g2rpo_build", "Version of the service.", registry=registry).info({"version": version})
    registry.register(DatabaseCollector(database))
    return registry


class _Exposition(Response):
    """A text response, for the media type in the OpenAPI document."""

    media_type = "text/plain"


@router.get("/metrics", summary="Metrics for Prometheus", response_class=_Exposition, responses=_TEXT)
@declare(KeyScope.READ, without_database=True)
def get_metrics(
    request: Request,
    accept: Annotated[str | None, Header(description="`text/plain` or `application/openmetrics-text`.")] = None,
) -> Response:
    """Return this process's request metrics, and metrics of the whole service's jobs, checkpoints and workers.

    If the database is unavailable, the response contains `g2rpo_database_up 0`. `docs/reference/metrics.md` lists every
    metric.
    """
    registry: CollectorRegistry = request.app.state.registry
    encode, content_type = choose_encoder(accept or "")
    return Response(encode(registry), headers={"Content-Type": content_type})


class MetricsMiddleware:
    """Middleware that counts and times requests by method, route template and status, and counts open streams."""

    def __init__(self, app: ASGIApp, registry: CollectorRegistry) -> None:
        self.app = app
        self._seconds = Histogram(
            "g2rpo_http_request_duration_seconds",
            "Time from the start of a request to the end of its response.",
            ["method", "route", "status"],
            buckets=_BUCKETS,
            registry=registry,
        )
        self._in_flight = Gauge(
            "g2rpo_http_requests_in_flight", "Requests without a complete response.", registry=registry
        )
        self._streams = Gauge("g2rpo_event_streams", "Open event streams.", registry=registry)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        status, streaming = 0, False
        start = time.perf_counter()

        async def observe(message: Message) -> None:
            nonlocal status, streaming
            if message["type"] == "http.response.start":
                status = message["status"]
                media_type = Headers(raw=message["headers"]).get("content-type", "")
                if media_type.startswith("text/event-stream"):
                    streaming = True
                    self._streams.inc()
            await send(message)

        try:
            with self._in_flight.track_inprogress():
                await self.app(scope, receive, observe)
        finally:
            if streaming:
                self._streams.dec()
            method = scope["method"] if scope["method"] in set(HTTPMethod) else _OTHER
            route = getattr(scope.get("route"), "path", _OTHER)
            self._seconds.labels(method, route, str(status)).observe(time.perf_counter() - start)
