"""The errors of the API and the corresponding `application/problem+json` responses (RFC 9457)."""

from collections.abc import Iterable, Mapping, Sequence
from http import HTTPStatus
from http.client import responses
from itertools import groupby
from typing import Any

import psycopg
import structlog
from fastapi import FastAPI, HTTPException, Request
from fastapi.dependencies.models import Dependant
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from fastapi.routing import APIRoute
from pydantic import BaseModel, ConfigDict, Field
from sqlalchemy.exc import InterfaceError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from starlette.exceptions import HTTPException as RoutingError
from starlette.types import Receive, Scope, Send

from service.contracts.events import NO_ROOM
from service.contracts.validation_errors import describe
from service.db.artifacts import ArtifactDamaged, StoreUnavailable
from service.http.links import route_path

MEDIA_TYPE = "application/problem+json"
_MAX_ERRORS = 100
"""Maximum number of invalid fields listed in a response."""
UNAVAILABLE = (OperationalError, InterfaceError, PoolTimeoutError, psycopg.OperationalError, psycopg.InterfaceError)
"""Exceptions raised when the database cannot be reached."""
log = structlog.get_logger()


class FieldError(BaseModel):
    """An invalid field of a request."""

    loc: list[str | int] = Field(
        description="Location: `body`, `query`, `path` or `header`, followed by names and indices."
    )
    msg: str = Field(description="The error and the allowed values.")
    type: str = Field(description="Stable name of the error type.")

    def shortened(self) -> "FieldError":
        """Return the error with long text truncated and invalid UTF-8 escaped, since both can come from the request."""
        loc = [part if isinstance(part, int) else _short(part, 100) for part in self.loc]
        return FieldError(loc=loc, msg=_short(self.msg, 1000), type=self.type)


class ReadinessCheck(BaseModel):
    """The readiness check of a dependency of the service."""

    name: str = Field(description="`database`, `schema`, `broker`, `storage` or `workers`.", examples=["database"])
    ok: bool
    detail: str = Field(description="Result of the check.", examples=["PostgreSQL 18.4"])
    hint: str = Field("", description="How to fix the problem, or a warning if `ok` is true.")


_EXAMPLE: dict[str, Any] = {
    "type": "about:blank",
    "title": "Unprocessable Entity",
    "status": 422,
    "detail": "body.algorithm.group_size: Invalid value 1: must be greater than or equal to 2",
    "code": "invalid_request",
    "request_id": "01a204c3-7312-71d9-9300-f5913550663d",
    "errors": [
        {
            "loc": ["body", "algorithm", "group_size"],
            "msg": "Invalid value 1: must be greater than or equal to 2",
            "type": "greater_than_equal",
        }
    ],
}


class Problem(BaseModel):
    """The body of an error response."""

    model_config = ConfigDict(json_schema_extra={"examples": [_EXAMPLE]})

    type: str = Field("about:blank", description="URI of the problem type; if it is `about:blank`, see `code`.")
    title: str = Field(description="Reason phrase of the HTTP status.")
    status: int = Field(description="HTTP status.")
    detail: str = Field(description="What is wrong and how to fix it.")
    code: str = Field(description="Stable machine-readable name of the problem.")
    request_id: str = Field(description="Request id, as in `X-Request-ID` and the service log.")
    errors: list[FieldError] | None = Field(None, description="The invalid fields (at most 100) if the status is 422.")
    checks: list[ReadinessCheck] | None = Field(None, description="The readiness checks if the code is `not_ready`.")


class ServiceError(HTTPException):
    """The base class of all API errors. Each is returned as a response with its status, code and detail.

    A subclass states its code and, unless it is that of its base class, its status.
    """

    status: int = HTTPStatus.INTERNAL_SERVER_ERROR
    code = "internal_error"

    def __init_subclass__(cls, *, code: str, status: int | None = None) -> None:
        super().__init_subclass__()
        cls.status, cls.code = status or cls.status, code

    def __init__(self, detail: str, *, headers: dict[str, str] | None = None, **extensions: Any) -> None:
        super().__init__(self.status, _short(detail, 4000), headers)
        self.extensions = extensions


class NotFound(ServiceError, status=HTTPStatus.NOT_FOUND, code="not_found"):
    """The resource does not exist."""


class NotAcceptable(ServiceError, status=HTTPStatus.NOT_ACCEPTABLE, code="not_acceptable"):
    """The route cannot provide any media type that `Accept` allows."""


class NotFinished(ServiceError, status=HTTPStatus.CONFLICT, code="not_finished"):
    """The job, or the requested part of it, is not finished yet."""


class WrongState(ServiceError, status=HTTPStatus.CONFLICT, code="wrong_state"):
    """The current state of the resource does not allow the operation."""

    def __init__(self, detail: str, code: str = "wrong_state", *, headers: dict[str, str] | None = None) -> None:
        super().__init__(detail, headers=headers)
        self.code = code


class InUse(ServiceError, status=HTTPStatus.CONFLICT, code="in_use"):
    """The resource cannot be deleted because another resource uses it."""


class NameTaken(ServiceError, status=HTTPStatus.CONFLICT, code="name_taken"):
    """The name is already used by another resource."""


class Deleted(ServiceError, status=HTTPStatus.GONE, code="deleted"):
    """The resource was deleted."""


class BodyTooLarge(ServiceError, status=HTTPStatus.REQUEST_ENTITY_TOO_LARGE, code="body_too_large"):
    """The request body exceeds the limit."""


class UnsupportedMediaType(ServiceError, status=HTTPStatus.UNSUPPORTED_MEDIA_TYPE, code="unsupported_media_type"):
    """The route does not accept the media type of the body."""


class ContentEncodingUnsupported(UnsupportedMediaType, code="content_encoding_unsupported"):
    """The body is compressed."""

    def __init__(self, encoding: str) -> None:
        super().__init__(
            f"Unsupported Content-Encoding {encoding[:100]!r}; send the body without compression",
            headers={"Accept-Encoding": "identity"},
        )


class ClientDisconnected(ServiceError, status=499, code="client_disconnected"):
    """The client closed the connection before the end of the body. The status is only logged, since no one reads it."""

    def __init__(self) -> None:
        super().__init__("The client closed the connection before the end of the request body")


class RangeNotSatisfiable(
    ServiceError, status=HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE, code="range_not_satisfiable"
):
    """The requested range does not overlap the file."""


class Invalid(ServiceError, status=HTTPStatus.UNPROCESSABLE_ENTITY, code="invalid_request"):
    """One or more fields of the request are invalid."""

    def __init__(self, errors: Sequence[FieldError]) -> None:
        listed = [error.shortened() for error in errors[:_MAX_ERRORS]]
        detail = "; ".join(f"{'.'.join(map(str, error.loc))}: {error.msg}" for error in listed[:3])
        more = f"; and {len(errors) - 3} more" if len(errors) > 3 else ""
        super().__init__(detail + more, errors=[error.model_dump() for error in listed])


class NotReady(ServiceError, status=HTTPStatus.SERVICE_UNAVAILABLE, code="not_ready"):
    """A dependency of the service is unavailable."""


class TooManyStreams(ServiceError, status=HTTPStatus.SERVICE_UNAVAILABLE, code="too_many_streams"):
    """This process has reached its maximum number of open event streams."""


def _short(text: str, max_length: int) -> str:
    valid = text.encode("utf-8", errors="backslashreplace").decode()
    return valid if len(valid) <= max_length else valid[:max_length] + "…"


def invalid(loc: Sequence[str | int], msg: str, type: str = "value_error") -> Invalid:
    """Return the error for a single invalid field."""
    return Invalid([FieldError(loc=list(loc), msg=msg, type=type)])


class ProblemResponse(JSONResponse):
    """An `application/problem+json` response that stores its code in `request.state.problem` for the audit log."""

    media_type = MEDIA_TYPE

    def __init__(self, problem: dict[str, Any], headers: dict[str, str] | None = None) -> None:
        super().__init__(problem, problem["status"], headers)
        self._code = problem["code"]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        scope.setdefault("state", {})["problem"] = self._code
        await super().__call__(scope, receive, send)


def problem_response(
    status: int, code: str, detail: str, request_id: str, headers: dict[str, str] | None = None, **extensions: Any
) -> JSONResponse:
    """Create an `application/problem+json` response."""
    return ProblemResponse(_problem(status, code, detail, request_id, extensions), headers)


def problem_of(error: ServiceError, request_id: str) -> dict[str, Any]:
    """Return the problem body of an error, also for use inside a response that has already started."""
    return _problem(error.status_code, error.code, error.detail, request_id, error.extensions)


def _problem(status: int, code: str, detail: str, request_id: str, extensions: dict[str, Any]) -> dict[str, Any]:
    return {
        "type": "about:blank",
        "title": responses.get(status, "Client Closed Request"),
        "status": status,
        "detail": detail,
        "code": code,
        "request_id": request_id,
        **extensions,
    }


def problems(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Return the OpenAPI error responses of a route: those in `statuses` and those common to all routes."""
    return {
        status: {
            "description": HTTPStatus(status).phrase,
            "content": {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}},
        }
        for status in sorted({*statuses, 400, 500, 503})
    }


def install(app: FastAPI, routes: Sequence[APIRoute]) -> None:
    """Make `app` respond to errors with problems. `routes` must contain all routes of the API."""
    app.state.api_routes = routes
    app.add_exception_handler(RoutingError, _http_error)
    app.add_exception_handler(RequestValidationError, _validation_error)
    app.add_exception_handler(ArtifactDamaged, _artifact_damaged)
    app.add_exception_handler(StoreUnavailable, _storage_unavailable)
    app.add_exception_handler(OSError, _disk_full)
    for unavailable in UNAVAILABLE:
        app.add_exception_handler(unavailable, _database_unavailable)


async def error_response(request: Request, error: Exception) -> JSONResponse:
    """Return the response to a ServiceError, or to one of UNAVAILABLE, that was raised in a middleware."""
    if isinstance(error, ServiceError):
        return await _http_error(request, error)
    return await _database_unavailable(request, error)


_ROUTING_CODES = {400: "bad_request", 404: "unknown_route", 405: "method_not_allowed"}


async def _http_error(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RoutingError)
    headers = dict(error.headers or {})
    request_id = request.state.request_id
    if isinstance(error, ServiceError):
        return ProblemResponse(problem_of(error, request_id), headers)
    if error.status_code == HTTPStatus.METHOD_NOT_ALLOWED:
        headers["Allow"] = ", ".join(_allowed_methods(request))
    details = {
        404: f"Unknown route {request.url.path!r}; see /docs",
        405: f"Method {request.method} not allowed; allowed: {headers.get('Allow')}",
    }
    detail = details.get(error.status_code, str(error.detail))
    code = _ROUTING_CODES.get(error.status_code, "http_error")
    return problem_response(error.status_code, code, detail, request_id, headers=headers)


def _allowed_methods(request: Request) -> list[str]:
    """Return the methods of all routes that match the path. The router reports only those of the first route."""
    routes = (route for route in request.app.state.api_routes if route.path_regex.match(route_path(request.scope)))
    methods = {method for route in routes for method in route.methods}
    return sorted(methods | ({"HEAD"} if "GET" in methods else set()))


async def _validation_error(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)
    route: APIRoute = request.scope["route"]
    types = {"body": route.body_field and route.body_field.field_info.annotation, "query": query_type(route.dependant)}
    errors = []
    for source, group in groupby(error.errors(), lambda item: str(item["loc"][0])):
        relative = [{**item, "loc": item["loc"][1:]} for item in group]
        errors += field_errors(relative, types.get(source), source)
    return await _http_error(request, Invalid(errors))


def query_type(dependant: Dependant) -> Any:
    """Return the model of a route's query parameters, or None if it has none."""
    inner = [query_type(dependency) for dependency in dependant.dependencies]
    return next(filter(None, [*(one.field_info.annotation for one in dependant.query_params), *inner]), None)


def field_errors(errors: Iterable[Mapping[str, Any]], annotation: Any, source: str = "body") -> list[FieldError]:
    """Return pydantic's errors of validating the part `source` of a request, which has the type `annotation`."""
    noun = "query parameter" if source == "query" else "field"
    return [
        FieldError(loc=[source, *found.loc], msg=found.msg, type=found.type)
        for found in describe(errors, annotation, noun)
    ]


async def _artifact_damaged(request: Request, error: Exception) -> JSONResponse:
    log.error("artifact_damaged", detail=str(error))
    detail = "A stored file is missing or damaged; see the service log entry with this request id"
    return problem_response(500, "artifact_damaged", detail, request.state.request_id)


async def _storage_unavailable(request: Request, error: Exception) -> JSONResponse:
    log.error("storage_unavailable", detail=str(error))
    detail = "The artifact store is unavailable; see /readyz, then retry"
    return problem_response(503, "storage_unavailable", detail, request.state.request_id, {"Retry-After": "5"})


async def _disk_full(request: Request, error: Exception) -> JSONResponse:
    if not isinstance(error, OSError) or error.errno not in NO_ROOM:
        raise error
    log.error("disk_full", detail=str(error))
    detail = "The API's disk for temporary files (TMPDIR) is full; free space there, then retry"
    return problem_response(503, "disk_full", detail, request.state.request_id, {"Retry-After": "60"})


async def _database_unavailable(request: Request, error: Exception) -> JSONResponse:
    log.error("database_unavailable", exc_info=error)
    detail = "The database is unavailable; see /readyz, then retry"
    return problem_response(503, "database_unavailable", detail, request.state.request_id, {"Retry-After": "5"})
