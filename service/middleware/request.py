"""Assign request ids, log requests, limit request headers, add security headers, and respond to unexpected errors."""

import re
import time

import structlog
import uuid_utils
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.http.errors import problem_response
from service.http.links import ROOT_PATH
from service.middleware import audit_log, security_headers

REQUEST_ID = "X-Request-ID"
REPLAYED = "Idempotency-Replayed"
"""Response header that marks the response to a repeated request."""
_MAX_HEADERS, MAX_HEADER_BYTES = 200, 64 * 1024
_CLIENT_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
log = structlog.get_logger()


class RequestMiddleware:
    """Sets `request.state.request_id`, adds `request.state.response_headers` to the response, and logs the request.

    `root_path` is the path prefix that a proxy removes from requests, unless the server sets another one.
    """

    def __init__(self, app: ASGIApp, root_path: str = "") -> None:
        self.app = app
        self._root_path = root_path

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        if self._root_path and not scope.get("root_path"):
            scope["root_path"] = self._root_path
            if not scope["path"].startswith(f"{self._root_path}/"):  # in ASGI, the path includes the root path
                scope["path"] = self._root_path + scope["path"]
        ROOT_PATH.set(scope.get("root_path", "").rstrip("/"))
        client_id = headers.get(REQUEST_ID, "")
        request_id = client_id if _CLIENT_ID.fullmatch(client_id) else str(uuid_utils.uuid7())
        response_headers: dict[str, str] = {}
        scope.setdefault("state", {}).update(request_id=request_id, response_headers=response_headers)
        start = time.perf_counter()
        status = 0
        location: str | None = None

        async def send_with_headers(message: Message) -> None:
            nonlocal status, location
            if message["type"] == "http.response.start":
                status = message["status"]
                sent = MutableHeaders(scope=message)
                sent.update(response_headers)
                sent[REQUEST_ID] = request_id
                security_headers.add(sent, scope)
                location = sent.get("Location")
            await send(message)

        with structlog.contextvars.bound_contextvars(request_id=request_id):
            try:
                if _too_large(headers):
                    detail = f"Request headers too large: limit {_MAX_HEADERS} headers of {MAX_HEADER_BYTES} bytes"
                    response = problem_response(431, "headers_too_large", detail, request_id)
                    await response(scope, receive, send_with_headers)
                else:
                    await self.app(scope, receive, send_with_headers)
            except Exception as error:
                log.error("request_failed", exc_info=error)
                if status:
                    raise  # the response has started: the server closes the connection
                detail = "Internal error; see the service log entry with this request id"
                await problem_response(500, "internal_error", detail, request_id)(scope, receive, send_with_headers)
            finally:
                log.info(
                    "request",
                    method=scope["method"],
                    path=scope["path"],
                    status=status,
                    milliseconds=round(1000 * (time.perf_counter() - start), 1),
                )
                audit_log.record(scope, status, location, replayed=REPLAYED in response_headers)


def _too_large(headers: Headers) -> bool:
    size = sum(len(name) + len(value) for name, value in headers.raw)
    return len(headers.raw) > _MAX_HEADERS or size > MAX_HEADER_BYTES
