"""Send HTTP requests with retries, and raise ApiError for every failure."""

import random
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Self, TypeVar

import httpx
from pydantic import BaseModel, TypeAdapter, ValidationError
from tenacity import RetryCallState, Retrying, retry_if_exception, stop_before_delay

from service.client.errors import ApiError
from service.http.pagination import Page, every_item

DEFAULT_URL = "http://127.0.0.1:8000"
BLOCK_BYTES = 1 << 20

Id = uuid.UUID | str
Model = TypeVar("Model", bound=BaseModel)
Result = TypeVar("Result")
Query = Mapping[str, Any]

_RETRY_STATUSES = frozenset({429, 502, 503, 504})
"""Statuses of requests that were not executed but may succeed later."""
_FIRST_PAUSE, _LONGEST_PAUSE = 0.2, 5.0


class Transport:
    """A connection to the service, and the base class of the client's resources.

    A request that gets no response, or the status 429, 502, 503 or 504, is retried for up to `patience` seconds. The
    service sets the pause before each retry with `Retry-After`; without this header, the pause grows from 0.2 s to 5 s.
    Every POST carries an `Idempotency-Key` that stays the same across retries, so that a request whose response was
    lost is not executed twice.
    """

    def __init__(
        self, url: str = DEFAULT_URL, key: str | None = None, *, timeout: float = 60.0, patience: float = 10.0
    ) -> None:
        self.url, self._patience = url, patience
        try:
            address = httpx.URL(url)
            if address.scheme not in ("http", "https") or not address.host:
                raise httpx.InvalidURL("scheme or host is missing")
        except httpx.InvalidURL as error:
            reason = f"Invalid service URL {url!r}: {error}; write it like {DEFAULT_URL}"
            raise ApiError(reason, code="bad_url") from error
        headers = {"Authorization": f"Bearer {key.strip()}"} if key else {}
        # A proxy configured in the environment cannot reach this machine's loopback address.
        local = address.host in ("127.0.0.1", "localhost", "::1")
        self._http = httpx.Client(base_url=address, timeout=timeout, headers=headers, trust_env=not local)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection."""
        self._http.close()

    def _send(
        self,
        method: str,
        path: str,
        query: Query | None = None,
        *,
        headers: Mapping[str, str] | None = None,
        json: Any = None,
        file: Path | None = None,
    ) -> httpx.Response:
        """Send a request, optionally with a JSON value or a file as its body. Raises ApiError."""
        headers = {**(headers or {}), **({"Idempotency-Key": str(uuid.uuid4())} if method == "POST" else {})}

        def once() -> httpx.Response:
            with ExitStack() as stack:
                content = stack.enter_context(file.open("rb")) if file else None
                body = {"content": content} if content else {"json": json} if json is not None else {}
                response = stack.enter_context(self._stream(method, path, query, headers, **body))
                response.read()
                return response

        return self._retry(once)

    def _read(self, model: type[Model], method: str, path: str, query: Query | None = None, **request: Any) -> Model:
        """Send a request and validate the response as `model`. Raises ApiError."""
        content = self._send(method, path, query, **request).content
        # Fields are also accepted by name, because the schemas have aliases for database columns.
        try:
            return TypeAdapter(model).validate_json(content, by_alias=True, by_name=True)
        except ValidationError as error:
            reason = f"Unexpected response to {method} {self.url}{path}: it is not from this version of the service"
            raise ApiError(reason, code="foreign_service") from error

    def _content(self, path: str, accept: str, query: Query | None = None) -> bytes:
        """Fetch the body of a response with the media type `accept`. Raises ApiError."""
        return self._send("GET", path, query, headers={"Accept": accept}).content

    def _pages(self, model: type[Model], path: str, query: Query | None = None) -> Iterator[Model]:
        """Iterate over the items of a list, fetching it page by page."""
        page: Any = Page[model]  # type: ignore[valid-type]
        return every_item(
            lambda cursor: self._read(page, "GET", path, {**(query or {}), "limit": 200, "cursor": cursor})
        )

    def _save(self, path: str, accept: str, query: Query | None, file: Path) -> Path:
        """Save a response as `file`, which is created only once it is complete. Raises ApiError or OSError."""
        file.parent.mkdir(parents=True, exist_ok=True)
        part = file.with_name(f".{file.name}.part")

        def once() -> None:
            with self._stream("GET", path, query, {"Accept": accept}) as response, part.open("wb") as output:
                output.writelines(response.iter_bytes(BLOCK_BYTES))

        try:
            self._retry(once)
            return part.replace(file)
        finally:
            part.unlink(missing_ok=True)

    def _retry(self, once: Callable[[], Result]) -> Result:
        """Call `once` until it succeeds, fails permanently, or has been retried for `patience` seconds."""
        return Retrying(
            retry=retry_if_exception(is_transient), wait=_wait, stop=stop_before_delay(self._patience), reraise=True
        )(once)

    @contextmanager
    def _stream(
        self, method: str, path: str, query: Query | None, headers: Mapping[str, str], **request: Any
    ) -> Iterator[httpx.Response]:
        """Send a request once and yield the response before reading its body. Raises ApiError, even while reading."""
        if not path.startswith("/") or path.startswith("//"):  # the key must not be sent to another host
            raise ApiError(f"Invalid path {path!r}: must start with a single /", code="foreign_url")
        path = path.removeprefix(self._http.base_url.path.rstrip("/"))  # links in responses include it
        params = {name: value for name, value in (query or {}).items() if value is not None}
        try:
            with self._http.stream(method, path, params=params, headers=dict(headers), **request) as response:
                if response.is_error:
                    response.read()
                    raise ApiError.from_response(response)
                yield response
        except httpx.TransportError as error:
            reason = f"No response from {self.url} ({error or repr(error)}); is the service running?"
            raise ApiError(reason) from error


def is_transient(error: BaseException | None) -> bool:
    """Whether a request that failed with `error` may succeed later."""
    return isinstance(error, ApiError) and (
        error.code in ("unreachable", "idempotency_in_progress") or error.status in _RETRY_STATUSES
    )


def pause(attempt: int, error: BaseException | None) -> float:
    """Return the seconds to wait after a failed attempt, with jitter so that clients do not all retry at once."""
    if isinstance(error, ApiError) and error.retry_after is not None:
        return error.retry_after
    longest = min(_LONGEST_PAUSE, _FIRST_PAUSE * 2 ** min(attempt - 1, 10))
    return random.uniform(longest / 2, longest)  # noqa: S311 - not a secret


def _wait(state: RetryCallState) -> float:
    return pause(state.attempt_number, state.outcome.exception() if state.outcome else None)


def media_type(file: Path, by_suffix: Mapping[str, str]) -> str:
    """Return the media type for the suffix of `file`. Raises ApiError if the suffix is not supported."""
    found = by_suffix.get(file.suffix.lower())
    if found is None:
        raise ApiError(
            f"Unsupported file name {file.name}: must end in one of {', '.join(by_suffix)}", code="unknown_suffix"
        )
    return found
