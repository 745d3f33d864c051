"""The route class of all routers, which checks scope, body size and JSON, and the declaration of these for a route."""

import json
import re
from collections import Counter
from collections.abc import Callable, Coroutine, Iterator
from dataclasses import dataclass
from typing import Any, Literal, NoReturn, TypeVar

from fastapi import Request, Response
from fastapi.concurrency import run_in_threadpool
from fastapi.routing import APIRoute
from starlette.types import Message, Receive

from service.auth.errors import ScopeMissing
from service.auth.principal import Principal, Scope
from service.contracts.json_limits import check_json
from service.core.settings import Settings
from service.http.errors import (
    BodyTooLarge,
    ClientDisconnected,
    ContentEncodingUnsupported,
    invalid,
    problems,
    query_type,
)
from service.http.response_cache import ResponseCache

SECURITY_SCHEME = {
    "type": "http",
    "scheme": "bearer",
    "bearerFormat": "g2k_…",
    "description": "An API key. If no keys exist, the service accepts only requests from its own machine, which need "
    "no key.",
}
LOCATION: dict[str, Any] = {
    "headers": {"Location": {"description": "The URL of the created resource.", "schema": {"type": "string"}}}
}
"""The documented header of responses with status 201 or 202."""
_MAX_NAMES = 1000
"""The maximum number of names in a JSON object. Validation creates an error for each unknown name."""
MAX_VALUES = 20_000
"""The maximum number of values in a body with prompts or images, of which there are at most 10,000 or 4096."""
_LONG_BODY = 256 * 1024
"""Size in bytes from which a body is parsed in another thread, so that other requests proceed in between."""
_FLOAT_DIGITS = 308
"""Every integer with at most this many digits is in the range of float."""
_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")
Endpoint = TypeVar("Endpoint", bound=Callable[..., Any])
BodyLimit = Literal["max_json_bytes", "max_body_bytes", "max_upload_bytes", "max_results_bytes", "max_prompt_set_bytes"]


@dataclass(frozen=True)
class Declaration:
    """The access rules and properties that a route declares. Routes that declare nothing get the defaults."""

    scope: Scope | None = Scope.ADMIN
    """The scope that a key needs, or None for a public route."""
    max_body: BodyLimit = "max_json_bytes"
    """The setting that limits the body size."""
    max_values: int = 1000
    """The maximum number of values in a JSON body."""
    cacheable: bool = False
    """Whether the response may be cached: it is made from rows and immutable files, and is the same for all keys."""
    reads_only: bool = False
    """Whether the route changes nothing although its method is POST. Such requests are not written to the audit log."""
    without_database: bool = False
    """Whether a client on this machine may use the route while the database is unavailable."""

    def __call__(self, endpoint: Endpoint) -> Endpoint:
        endpoint.declaration = self  # type: ignore[attr-defined]
        return endpoint


declare = Declaration
"""A decorator for endpoints: write `@declare(Scope.READ, cacheable=True)` below `@router.get(...)`."""


class ApiRoute(APIRoute):
    """A route that checks the scope before reading the body, limits the body, parses strict JSON, and caches."""

    def __init__(self, path: str, endpoint: Callable[..., Any], **options: Any) -> None:
        self.declaration: Declaration = getattr(endpoint, "declaration", Declaration())
        self.reads_only = self.declaration.reads_only
        scope = self.declaration.scope
        first, *words = endpoint.__name__.split("_")
        options["operation_id"] = options.get("operation_id") or first + "".join(word.title() for word in words)
        security: list[dict[str, list[str]]] = [{"key": []}] if scope else []
        options["openapi_extra"] = {"security": security, **(options.get("openapi_extra") or {})}
        super().__init__(path, endpoint, **options)
        self.responses = {**problems(*self._statuses(path)), **self.responses}
        if scope:
            self.description += f"\n\nNeeds the scope `{scope}`."

    def _statuses(self, path: str) -> Iterator[int]:
        """Yield the error statuses that follow from the route's scope, path and parameters.

        A route declares only its additional statuses.
        """
        yield from (401, 403, 429) if self.declaration.scope else (403,)
        has_body = not self.methods or not self.methods <= {"GET", "HEAD", "DELETE"}
        if "{" in path:
            yield 404
        if has_body:
            yield from (413, 415)
        if has_body or "{" in path or self.dependant.query_params or self.dependant.header_params:
            yield 422

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handler = super().get_route_handler()
        scope, max_body, cacheable = self.declaration.scope, self.declaration.max_body, self.declaration.cacheable
        max_values = self.declaration.max_values
        reads_json = self.body_field is not None
        takes_query = query_type(self.dependant) is not None

        async def handle(request: Request) -> Response:
            principal: Principal = request.state.principal
            if scope is not None and not principal.has_scope(scope):
                raise ScopeMissing(principal, scope)
            if request.query_params and not takes_query:
                name = next(iter(request.query_params))
                msg = f"Unknown query parameter {name!r}. Allowed: none"
                raise invalid(["query", name], msg, "extra_forbidden")
            if (encoding := request.headers.get("content-encoding", "identity").lower()) != "identity":
                raise ContentEncodingUnsupported(encoding)
            cache: ResponseCache = request.app.state.response_cache
            key = cache.key(request) if cacheable else None
            if key is not None and (cached := cache.get(key)) is not None:
                return cached
            if reads_json:
                _check_content_type(request)
            settings: Settings = request.app.state.database.settings
            limited = JsonRequest(request.scope, _limited(request, getattr(settings, max_body)))
            limited.max_values = max_values
            response = await handler(limited)
            if key is not None:
                cache.put(key, response)
            return response

        return handle


class JsonRequest(Request):
    """A request whose JSON is parsed strictly. The parsed body is kept in `request.state.body`."""

    max_values: int

    async def json(self) -> Any:
        body = await self.body()
        parsed = await run_in_threadpool(self._parse, body) if len(body) > _LONG_BODY else self._parse(body)
        self.state.body = parsed
        return parsed

    def _parse(self, body: bytes) -> Any:
        try:
            check_json(body, self.max_values)
            parsed = json.loads(body, parse_int=_integer, parse_constant=_reject_constant, object_pairs_hook=_object)
            if _SURROGATE.search(body):
                json.dumps(parsed, ensure_ascii=False).encode()  # fails for a lone surrogate, which cannot be stored
        except json.JSONDecodeError as error:
            msg = f"Invalid JSON at line {error.lineno}, column {error.colno}: {error.msg}"
            raise invalid(["body", error.pos], msg, "json_invalid") from error
        except ValueError as error:
            # Invalid UTF-8, a lone surrogate, NaN, Infinity, or too many values.
            raise invalid(["body"], f"Invalid JSON: {str(error)[:200]}", "json_invalid") from error
        return parsed


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len(pairs) > _MAX_NAMES:
        raise ValueError(f"an object has {len(pairs)} names; the maximum is {_MAX_NAMES}")
    if len(names := dict(pairs)) < len(pairs):
        repeated = next(name for name, count in Counter(name for name, _ in pairs).items() if count > 1)
        raise ValueError(f"the name {repeated[:100]!r} occurs more than once in an object")
    return names


def _integer(digits: str) -> int | float:
    """Parse an integer. One beyond the range of float becomes infinity, like 1e400, which no numeric field allows."""
    return int(digits) if len(digits) <= _FLOAT_DIGITS else float(digits)


def _reject_constant(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is not a JSON number")


def _check_content_type(request: Request) -> None:
    media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if media_type != "application/json" and request.headers.get("content-length", "0") != "0":
        msg = f"Unsupported content type {media_type!r}; the body must be application/json"
        raise invalid(["header", "content-type"], msg, "content_type")


def _limited(request: Request, limit: int) -> Receive:
    """Return a receive function that raises BodyTooLarge if the body exceeds `limit` bytes.

    It raises ClientDisconnected if the client closes the connection before the end of the body.
    """
    length = request.headers.get("content-length", "")
    announced = int(length[:19]) if length.isdecimal() else 0
    received, complete = 0, False

    async def receive() -> Message:
        nonlocal received, complete
        if announced <= limit:
            message = await request.receive()
            if message["type"] == "http.disconnect" and not complete:
                raise ClientDisconnected
            complete = not message.get("more_body", False)
            received += len(message.get("body", b""))
            if received <= limit:
                return message
        raise BodyTooLarge(f"Request body too large: limit {limit} bytes")

    return receive
