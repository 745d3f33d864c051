"""What surrounds every request: its id, its lines in the log, the limit on its body, and the last resort."""

import re
import time

import structlog
import uuid_utils
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.http.errors import BodyTooLarge, problem_response
from service.middleware import audit_log

REQUEST_ID = "X-Request-ID"
REPLAYED = "Idempotency-Replayed"
"""The header of an answer to a request that had been done before."""
_MOST_HEADERS, _HEADER_BYTES = 200, 64 * 1024
_CLIENT_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
UPLOADS = "/checkpoints"
"""The path that takes weights."""
RESULTS = re.compile("/benchmarks/[^/]+/rescore")
"""Paths that take result files."""
PROMPTS = "/prompt-sets"
"""The path that takes prompts. Every other body is read as a whole."""
log = structlog.get_logger()


class RequestMiddleware:
    """Names each request, refuses large bodies, logs the answer, and answers what nobody caught."""

    def __init__(
        self,
        app: ASGIApp,
        max_body_bytes: int,
        max_upload_bytes: int,
        max_results_bytes: int,
        max_prompt_set_bytes: int,
    ) -> None:
        self.app = app
        self.max_body_bytes = max_body_bytes
        self.max_results_bytes = max_results_bytes
        self._uploads = {UPLOADS: max_upload_bytes, PROMPTS: max_prompt_set_bytes}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        given = headers.get(REQUEST_ID, "")
        request_id = given if _CLIENT_ID.fullmatch(given) else str(uuid_utils.uuid7())
        answer_headers: dict[str, str] = {}
        scope.setdefault("state", {}).update(request_id=request_id, answer_headers=answer_headers)
        began = time.perf_counter()
        status = 0
        location: str | None = None

        async def answer(message: Message) -> None:
            nonlocal status, location
            if message["type"] == "http.response.start":
                status = message["status"]
                said = MutableHeaders(scope=message)
                said.update(answer_headers)
                said[REQUEST_ID] = request_id
                location = said.get("Location")
            await send(message)

        with structlog.contextvars.bound_contextvars(request_id=request_id):
            try:
                if _too_large(headers):
                    detail = f"there may be {_MOST_HEADERS} headers, of {_HEADER_BYTES} bytes in all; send fewer"
                    refusal = problem_response(431, "headers_too_large", detail, request_id)
                    await refusal(scope, receive, answer)
                else:
                    await self.app(scope, self._limited(scope, headers, receive), answer)
            except Exception as error:
                log.error("request_failed", exc_info=error)
                if status:
                    raise  # the answer has begun: closing the connection is all that is left
                detail = "something went wrong here; the service's log has it under this request id"
                await problem_response(500, "internal_error", detail, request_id)(scope, receive, answer)
            finally:
                log.info(
                    "request",
                    method=scope["method"],
                    path=scope["path"],
                    status=status,
                    milliseconds=round(1000 * (time.perf_counter() - began), 1),
                )
                audit_log.record(scope, status, location, replayed=REPLAYED in answer_headers)

    def _most(self, path: str) -> int:
        """Bytes of a body that a path takes."""
        if path in self._uploads:
            return self._uploads[path]
        return self.max_results_bytes if RESULTS.fullmatch(path) else self.max_body_bytes

    def _limited(self, scope: Scope, headers: Headers, receive: Receive) -> Receive:
        received = 0
        announced = headers.get("content-length", "")
        most = self._most(scope["path"])
        too_large = BodyTooLarge(f"the body is larger than {most} bytes, the most that is taken")

        async def limited() -> Message:
            nonlocal received
            if announced.isdecimal() and (len(announced) > 19 or int(announced) > most):
                raise too_large
            message = await receive()
            received += len(message.get("body", b""))
            if received > most:
                raise too_large
            return message

        return limited


def _too_large(headers: Headers) -> bool:
    size = sum(len(name) + len(value) for name, value in headers.raw)
    return len(headers.raw) > _MOST_HEADERS or size > _HEADER_BYTES
