"""The error of a request that failed."""

from collections.abc import Mapping, Sequence
from typing import Any

import httpx

from service.http.errors import FieldError


class ApiError(Exception):
    """The service rejected a request or did not respond. `str` is the explanation."""

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
        """HTTP status; None without a response."""
        self.code = code
        """Stable name of the kind of error."""
        self.errors = list(errors)
        """Every invalid field, with status 422."""
        self.request_id = request_id
        """Id of the request in the service's log."""
        self.retry_after = retry_after
        """Seconds after which the service accepts the request again."""

    @classmethod
    def from_response(cls, response: httpx.Response) -> "ApiError":
        """The error in a response that was read to its end."""
        status = response.status_code
        after = response.headers.get("Retry-After", "")
        seconds = float(after) if after.isdecimal() and len(after) < 7 else None
        try:
            return cls.from_problem(response.json(), status, seconds)
        except (ValueError, KeyError, TypeError, AttributeError):
            return cls(f"Status {status}: {response.text[:500]}", status=status, code="unknown", retry_after=seconds)

    @classmethod
    def from_problem(cls, problem: Mapping[str, Any], status: int, retry_after: float | None = None) -> "ApiError":
        """The error in an `application/problem+json`. Raises KeyError or ValidationError for other JSON."""
        return cls(
            str(problem["detail"]),
            status=status,
            code=str(problem.get("code", "unknown")),
            errors=[FieldError.model_validate(one) for one in problem.get("errors") or ()],
            request_id=str(problem.get("request_id", "")),
            retry_after=retry_after,
        )
