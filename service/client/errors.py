"""Why a request was not answered as asked."""

from collections.abc import Mapping, Sequence
from typing import Any

import httpx

from service.http.errors import FieldError


class ApiError(Exception):
    """The service refused a request, or did not answer. `str` is its explanation."""

    def __init__(
        self,
        detail: str,
        *,
        status: int | None = None,
        code: str = "unreachable",
        errors: Sequence[FieldError] = (),
        request_id: str = "",
        retry_after: float | None = None,
    ) -> None:
        super().__init__(detail)
        self.detail = detail
        self.status = status
        """The HTTP status; None where no answer came."""
        self.code = code
        """A stable name to branch on."""
        self.errors = list(errors)
        """With status 422: every field that is wrong."""
        self.request_id = request_id
        """Under which the service's log has the request."""
        self.retry_after = retry_after
        """Seconds after which the service wants to be asked again."""


def of_response(response: httpx.Response) -> ApiError:
    """The error that an answer, read to its end, tells of."""
    status = response.status_code
    after = response.headers.get("Retry-After", "")
    seconds = float(after) if after.isdecimal() and len(after) < 7 else None
    try:
        return of_problem(response.json(), status, seconds)
    except (ValueError, KeyError, TypeError, AttributeError):
        return ApiError(f"status {status}: {response.text[:500]}", status=status, code="unknown", retry_after=seconds)


def of_problem(problem: Mapping[str, Any], status: int, retry_after: float | None = None) -> ApiError:
    """The error in an `application/problem+json`. Raises KeyError, or what pydantic raises, where it is none."""
    return ApiError(
        str(problem["detail"]),
        status=status,
        code=str(problem.get("code", "unknown")),
        errors=[FieldError.model_validate(one) for one in problem.get("errors") or ()],
        request_id=str(problem.get("request_id", "")),
        retry_after=retry_after,
    )
