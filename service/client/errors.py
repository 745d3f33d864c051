"""The error that a failed request raises."""

from collections.abc import Mapping, Sequence
from typing import Any

import httpx

from service.http.errors import FieldError


class ApiError(Exception):
    """The service rejected a request or did not respond. `str(error)` explains why."""

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
        """HTTP status, or None if there was no response."""
        self.code = code
        """Stable identifier for the kind of error."""
        self.errors = list(errors)
        """The invalid fields, if the status is 422."""
        self.request_id = request_id
        """Id that identifies the request in the service's log."""
        self.retry_after = retry_after
        """Number of seconds after which the request may be repeated, or None if the service did not specify it."""

    @classmethod
    def from_response(cls, response: httpx.Response) -> "ApiError":
        """Create the error described by a response whose body has been read."""
        status = response.status_code
        after = response.headers.get("Retry-After", "")
        seconds = float(after) if after.isdecimal() and len(after) < 7 else None
        try:
            return cls.from_problem(response.json(), status, seconds)
        except (ValueError, KeyError, TypeError, AttributeError):
            return cls(f"Status {status}: {response.text[:500]}", status=status, code="unknown", retry_after=seconds)

    @classmethod
    def from_problem(cls, problem: Mapping[str, Any], status: int, retry_after: float | None = None) -> "ApiError":
        """Create the error described by an `application/problem+json` document.

        Raises KeyError or ValidationError if the document has another form.
        """
        return cls(
            str(problem["detail"]),
            status=status,
            code=str(problem.get("code", "unknown")),
            errors=[FieldError.model_validate(one) for one in problem.get("errors") or ()],
            request_id=str(problem.get("request_id", "")),
            retry_after=retry_after,
        )
