"""What surrounds every request: its id, its log line, the allowed hosts, the limit on its body, and the last resort."""

import ipaddress
import re
import time

import structlog
import uuid_utils
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.errors import BodyTooLarge, problem_response
from service.idempotency import REPLAYED

REQUEST_ID = "X-Request-ID"
_CLIENT_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
log = structlog.get_logger()


class RequestMiddleware:
    """Names each request, refuses foreign hosts and large bodies, logs the answer, and answers what nobody caught."""

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
        scope.setdefault("state", {})["request_id"] = request_id
        began = time.perf_counter()
        status = 0

        async def answer(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = MutableHeaders(scope=message)
                headers[REQUEST_ID] = request_id
                if scope["state"].get("replayed"):
                    headers[REPLAYED] = "true"
            await send(message)

        with structlog.contextvars.bound_contextvars(request_id=request_id):
            try:
                client = scope.get("client")  # none on a unix socket
                if client is not None and not is_loopback(client[0]):
                    detail = "the service answers to this machine only; it has no API keys yet"
                    refusal = problem_response(403, "not_local", detail, request_id)
                    await refusal(scope, receive, answer)
                elif not is_loopback(headers.get("host", "")):
                    detail = "the Host header must be localhost or a loopback address; the service answers to no other"
                    refusal = problem_response(400, "host_not_allowed", detail, request_id)
                    await refusal(scope, receive, answer)
                else:
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


def is_loopback(host: str) -> bool:
    """Whether a Host header names this machine: a web page that rebinds its name to 127.0.0.1 does not."""
    name = re.sub(r":\d{1,5}$", "", host)
    if name.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(name.removeprefix("[").removesuffix("]")).is_loopback
    except ValueError:
        return False
