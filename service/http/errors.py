"""The one tree of errors, and how each becomes `application/problem+json` (RFC 9457)."""

from collections.abc import Sequence
from http import HTTPStatus
from typing import Any

import psycopg
import structlog
from fastapi import FastAPI, HTTPException, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from fastapi.routing import APIRoute
from pydantic import BaseModel, ConfigDict, Field
from sqlalchemy.exc import InterfaceError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from starlette.exceptions import HTTPException as RoutingError
from starlette.types import Receive, Scope, Send

from service.contracts.algorithms import CONTRACTS
from service.contracts.disk import NO_ROOM
from service.db.artifacts import ArtifactDamaged, StoreUnavailable
from service.http import openapi_examples

MEDIA_TYPE = "application/problem+json"
_MOST_ERRORS = 100
"""Wrong fields that an answer lists."""
UNAVAILABLE = (OperationalError, InterfaceError, PoolTimeoutError, psycopg.OperationalError, psycopg.InterfaceError)
"""What is raised when the database cannot be reached."""
log = structlog.get_logger()


class FieldError(BaseModel):
    """What is wrong with one field of a request."""

    loc: list[str | int] = Field(description="Where: `body`, `query`, `path` or `header`, then names and indices.")
    msg: str = Field(description="What is wrong, and what is allowed.")
    type: str = Field(description="A stable name for the kind of error.")

    def told(self) -> "FieldError":
        """The same, in an answer's few words: what was sent is not sent back at any length, nor what is no UTF-8."""
        loc = [part if isinstance(part, int) else _short(part, 100) for part in self.loc]
        return FieldError(loc=loc, msg=_short(self.msg, 1000), type=self.type)


class ReadinessCheck(BaseModel):
    """One thing the service stands on."""

    name: str = Field(description="`database`, `schema`, `broker`, `storage` or `workers`.")
    ok: bool
    detail: str = Field(description="What was found.")
    hint: str = Field("", description="How to mend it; with `ok`, what is still worth a look.")


class Problem(BaseModel):
    """Why a request was not answered as asked."""

    model_config = ConfigDict(json_schema_extra=openapi_examples.example(openapi_examples.PROBLEM))

    type: str = Field("about:blank", description="A URI for the kind of problem; `about:blank`: see `code`.")
    title: str = Field(description="The status in words.")
    status: int = Field(description="The HTTP status.")
    detail: str = Field(description="What was wrong, and what to do.")
    code: str = Field(description="A stable name to branch on.")
    request_id: str = Field(description="Also in `X-Request-ID` and in the service's log.")
    errors: list[FieldError] | None = Field(
        None, description="With status 422: every field that is wrong, up to a hundred."
    )
    checks: list[ReadinessCheck] | None = Field(None, description="With `not_ready`: what was looked at.")


class ServiceError(HTTPException):
    """The root: whatever is raised below it is answered with its status, code and detail."""

    status = HTTPStatus.INTERNAL_SERVER_ERROR
    code = "internal_error"

    def __init__(self, detail: str, *, headers: dict[str, str] | None = None, **extensions: Any) -> None:
        super().__init__(self.status, _short(detail, 4000), headers)
        self.extensions = extensions


class NotFound(ServiceError):
    """There is no such thing."""

    status = HTTPStatus.NOT_FOUND
    code = "not_found"


class NotAcceptable(ServiceError):
    """None of the media types the client accepts can be made."""

    status = HTTPStatus.NOT_ACCEPTABLE
    code = "not_acceptable"


class NotFinished(ServiceError):
    """The job has to end first."""

    status = HTTPStatus.CONFLICT
    code = "not_finished"


class WrongState(ServiceError):
    """The job is in a state in which this cannot be asked of it."""

    status = HTTPStatus.CONFLICT
    code = "wrong_state"

    def __init__(self, detail: str, code: str = "wrong_state") -> None:
        super().__init__(detail)
        self.code = code


class InUse(ServiceError):
    """Something that has not ended needs it."""

    status = HTTPStatus.CONFLICT
    code = "in_use"


class NameTaken(ServiceError):
    """Something else has the name."""

    status = HTTPStatus.CONFLICT
    code = "name_taken"


class Deleted(ServiceError):
    """There was such a thing, and it was deleted."""

    status = HTTPStatus.GONE
    code = "deleted"


class BodyTooLarge(ServiceError):
    """The request's body is over the limit."""

    status = HTTPStatus.REQUEST_ENTITY_TOO_LARGE
    code = "body_too_large"


class UnsupportedMediaType(ServiceError):
    """The body is not of the kind that the route takes."""

    status = HTTPStatus.UNSUPPORTED_MEDIA_TYPE
    code = "unsupported_media_type"


class RangeNotSatisfiable(ServiceError):
    """No byte of the file lies in the asked range."""

    status = HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE
    code = "range_not_satisfiable"


class Invalid(ServiceError):
    """Fields of the request are wrong."""

    status = HTTPStatus.UNPROCESSABLE_ENTITY
    code = "invalid_request"

    def __init__(self, errors: Sequence[FieldError]) -> None:
        told = [error.told() for error in errors[:_MOST_ERRORS]]
        shown = "; ".join(f"{'.'.join(map(str, error.loc))}: {error.msg}" for error in told[:3])
        more = f"; and {len(errors) - 3} more" if len(errors) > 3 else ""
        super().__init__(shown + more, errors=[error.model_dump() for error in told])


class NotReady(ServiceError):
    """Something the service stands on is missing."""

    status = HTTPStatus.SERVICE_UNAVAILABLE
    code = "not_ready"


class TooManyStreams(ServiceError):
    """This process keeps as many event streams open as it may."""

    status = HTTPStatus.SERVICE_UNAVAILABLE
    code = "too_many_streams"


def _short(text: str, most: int) -> str:
    whole = text.encode("utf-8", errors="backslashreplace").decode()
    return whole if len(whole) <= most else whole[:most] + "…"


def invalid(loc: Sequence[str | int], msg: str, type: str = "value_error") -> Invalid:
    """The error for a single field."""
    return Invalid([FieldError(loc=list(loc), msg=msg, type=type)])


class ProblemResponse(JSONResponse):
    """An answer of `application/problem+json`. Its code is then in the request's state, as `problem`, for the log."""

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
    """An answer of `application/problem+json`."""
    return ProblemResponse(_problem(status, code, detail, request_id, extensions), headers)


def problem_of(error: ServiceError, request_id: str) -> dict[str, Any]:
    """The problem of an error that is told inside an answer which has begun."""
    return _problem(error.status_code, error.code, error.detail, request_id, error.extensions)


def _problem(status: int, code: str, detail: str, request_id: str, extensions: dict[str, Any]) -> dict[str, Any]:
    return {
        "type": "about:blank",
        "title": HTTPStatus(status).phrase,
        "status": status,
        "detail": detail,
        "code": code,
        "request_id": request_id,
        **extensions,
    }


def problems(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """The documented error answers of a route: `statuses`, and those that any route may give."""
    return {
        status: {
            "description": HTTPStatus(status).phrase,
            "content": {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}},
        }
        for status in sorted({*statuses, 400, 500, 503})
    }


def install(app: FastAPI, routes: Sequence[APIRoute]) -> None:
    """Answer every error of `app`, which has `routes`, as a problem."""
    app.state.api_routes = routes
    app.add_exception_handler(RoutingError, _http_error)
    app.add_exception_handler(RequestValidationError, _validation_error)
    app.add_exception_handler(ArtifactDamaged, _artifact_damaged)
    app.add_exception_handler(StoreUnavailable, _storage_unavailable)
    app.add_exception_handler(OSError, _disk_full)
    for unavailable in UNAVAILABLE:
        app.add_exception_handler(unavailable, _database_unavailable)


async def answer_error(request: Request, error: Exception) -> JSONResponse:
    """The answer to an error that is raised before the routes are reached: a ServiceError, or one of UNAVAILABLE."""
    if isinstance(error, ServiceError):
        return await _http_error(request, error)
    return await _database_unavailable(request, error)


_ROUTING_CODES = {400: "bad_request", 404: "unknown_route", 405: "method_not_allowed"}


async def _http_error(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RoutingError)
    headers = dict(error.headers or {})
    request_id = request.state.request_id
    if isinstance(error, ServiceError):
        return problem_response(
            error.status_code, error.code, error.detail, request_id, headers=headers, **error.extensions
        )
    if error.status_code == HTTPStatus.METHOD_NOT_ALLOWED:
        headers["Allow"] = ", ".join(_allowed(request))
    details = {
        404: f"there is no route {request.url.path!r}; see /docs",
        405: f"{request.method} is not allowed here; allowed are {headers.get('Allow')}",
    }
    detail = details.get(error.status_code, str(error.detail))
    code = _ROUTING_CODES.get(error.status_code, "http_error")
    return problem_response(error.status_code, code, detail, request_id, headers=headers)


def _allowed(request: Request) -> list[str]:
    """Methods of all routes on the request's path: routing itself names only the first route's."""
    fitting = (route for route in request.app.state.api_routes if route.path_regex.match(request.url.path))
    return sorted({method for route in fitting for method in route.methods})


async def _validation_error(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)
    errors = [
        FieldError(loc=_named(one["loc"]), msg=one["msg"].removeprefix("Value error, "), type=one["type"])
        for one in error.errors()
    ]
    return await _http_error(request, Invalid(errors))


def _named(loc: Sequence[str | int]) -> list[str | int]:
    """The place as the request has it: without the tag by which an algorithm's contract was chosen."""
    places = zip(("", *loc), loc, strict=False)
    return [part for before, part in places if before != "algorithm" or part not in CONTRACTS]


async def _artifact_damaged(request: Request, error: Exception) -> JSONResponse:
    log.error("artifact_damaged", detail=str(error))
    detail = "a stored file is missing or damaged; the service's log names it under this request id"
    return problem_response(500, "artifact_damaged", detail, request.state.request_id)


async def _storage_unavailable(request: Request, error: Exception) -> JSONResponse:
    log.error("storage_unavailable", detail=str(error))
    detail = "the artifact store cannot be used; /readyz says more. Try again"
    return problem_response(503, "storage_unavailable", detail, request.state.request_id, {"Retry-After": "5"})


async def _disk_full(request: Request, error: Exception) -> JSONResponse:
    if not isinstance(error, OSError) or error.errno not in NO_ROOM:
        raise error
    log.error("disk_full", detail=str(error))
    detail = "the API's disk for temporary files (TMPDIR) has no room for the file; make room there and send it again"
    return problem_response(503, "disk_full", detail, request.state.request_id, {"Retry-After": "60"})


async def _database_unavailable(request: Request, error: Exception) -> JSONResponse:
    log.error("database_unavailable", exc_info=error)
    detail = "the database cannot be reached; /readyz says more. Try again"
    return problem_response(503, "database_unavailable", detail, request.state.request_id, {"Retry-After": "5"})
