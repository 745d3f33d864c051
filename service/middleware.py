"""What surrounds every request: its id, its lines in the log, the limit on its body, and the last resort."""

import re
import time

import structlog
import uuid_utils
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service import audit
from service.errors import BodyTooLarge, problem_response
from service.idempotency import REPLAYED

REQUEST_ID = "X-Request-ID"
_CLIENT_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
log = structlog.get_logger()


class RequestMiddleware:
    """Names each request, refuses large bodies, logs the answer, and answers what nobody caught."""

    def __init__(self, app: ASGIApp, max_body_bytes: int) -> None:
        self.app = app
        self.max_body_bytes = max_body_bytes

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
                await self.app(scope, self._limited(headers, receive), answer)
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
                audit.record(scope, status, location, replayed=REPLAYED in answer_headers)

    def _limited(self, headers: Headers, receive: Receive) -> Receive:
        received = 0
        announced = headers.get("content-length", "")
        too_large = BodyTooLarge(f"the body is larger than {self.max_body_bytes} bytes, the most that is taken")

        async def limited() -> Message:
            nonlocal received
            if announced.isdecimal() and int(announced) > self.max_body_bytes:
                raise too_large
            message = await receive()
            received += len(message.get("body", b""))
            if received > self.max_body_bytes:
                raise too_large
            return message

        return limited
