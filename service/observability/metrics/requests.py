"""Measuring every request, from its first byte in to its last byte out."""

import time
from http import HTTPMethod

from prometheus_client import CollectorRegistry, Gauge, Histogram
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0, 60.0)
_METHODS = frozenset(HTTPMethod)
_OTHER = "other"
"""For methods and paths that no route has: those are the client's words, of which there is no end."""


class MetricsMiddleware:
    """Counts and times requests by method, route template and status; counts those, and the event streams, now open."""

    def __init__(self, app: ASGIApp, registry: CollectorRegistry) -> None:
        self.app = app
        self._seconds = Histogram(
            "g2rpo_http_request_duration_seconds",
            "Time from a request's beginning to the end of its answer.",
            ["method", "route", "status"],
            buckets=_BUCKETS,
            registry=registry,
        )
        self._in_flight = Gauge("g2rpo_http_requests_in_flight", "Requests being answered.", registry=registry)
        self._streams = Gauge("g2rpo_event_streams", "Event streams that clients listen to.", registry=registry)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        status, streaming = 0, False
        began = time.perf_counter()

        async def answer(message: Message) -> None:
            nonlocal status, streaming
            if message["type"] == "http.response.start":
                status = message["status"]
                media_type = Headers(raw=message["headers"]).get("content-type", "")
                if media_type.startswith("text/event-stream"):
                    streaming = True
                    self._streams.inc()
            await send(message)

        self._in_flight.inc()
        try:
            await self.app(scope, receive, answer)
        finally:
            self._in_flight.dec()
            if streaming:
                self._streams.dec()
            method = scope["method"] if scope["method"] in _METHODS else _OTHER
            route = getattr(scope.get("route"), "path", _OTHER)
            self._seconds.labels(method, route, str(status)).observe(time.perf_counter() - began)
