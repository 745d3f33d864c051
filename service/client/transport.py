"""Sending requests: again where that is safe, for a bounded time, with every refusal as an ApiError."""

import random
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import httpx
from pydantic import BaseModel, TypeAdapter
from tenacity import RetryCallState, Retrying, retry_if_exception, stop_before_delay

from service.client.errors import ApiError, of_response
from service.http.pagination import Page

Id = uuid.UUID | str
Model = TypeVar("Model", bound=BaseModel)
Result = TypeVar("Result")
Query = Mapping[str, str | int | float | Sequence[str] | None]

_AGAIN = frozenset({429, 502, 503, 504})
"""Statuses of requests that were not done and may be soon."""
_BLOCK = 1 << 20
_FIRST_PAUSE, _LONGEST_PAUSE = 0.2, 5.0


class Transport:
    """A connection to the service at `url`, with `key` where it wants one.

    A request that got no answer, or a 429, 502, 503 or 504, is sent again for up to `patience` seconds, after pauses
    that grow from 0.2 s to 5 s or are the service's own (`Retry-After`). Every POST carries an `Idempotency-Key`, the
    same each time it is sent: what was done before its answer got lost is not done again. Raises ApiError.
    """

    def __init__(self, url: str, key: str | None, timeout: float, patience: float) -> None:
        self.url, self.patience = url, patience
        try:
            address = httpx.URL(url)
        except httpx.InvalidURL as error:
            raise ApiError(f"{url!r} is no address of a service: {error}", code="bad_url") from error
        if address.scheme not in ("http", "https") or not address.host:
            raise ApiError(f"{url!r} is no address of a service; it looks like http://127.0.0.1:8000", code="bad_url")
        headers = {"Authorization": f"Bearer {key.strip()}"} if key else {}
        # A proxy from the environment cannot reach this machine's own address.
        local = address.host in ("127.0.0.1", "localhost", "::1")
        self._http = httpx.Client(base_url=address, timeout=timeout, headers=headers, trust_env=not local)

    def close(self) -> None:
        """Give up the connection."""
        self._http.close()

    def send(
        self,
        method: str,
        path: str,
        query: Query | None = None,
        *,
        headers: Mapping[str, str] | None = None,
        json: Any = None,
        body: Callable[[], Iterable[bytes]] | None = None,
    ) -> httpx.Response:
        """The answer to a request. `body` is called for the content each time it is sent. Raises ApiError."""
        said = dict(headers or {})
        if method == "POST":
            said["Idempotency-Key"] = str(uuid.uuid4())

        def once() -> httpx.Response:
            content = {"content": body()} if body else {"json": json} if json is not None else {}
            with self.opened(method, path, query, said, **content) as response:
                response.read()
                return response

        return self.patiently(once)

    def read(self, model: type[Model], method: str, path: str, query: Query | None = None, **request: Any) -> Model:
        """The answer to a request, as `model` has it. Raises ApiError."""
        content = self.send(method, path, query, **request).content
        # By name too: the service fills some fields from columns of other names.
        return TypeAdapter(model).validate_json(content, by_alias=True, by_name=True)

    def pages(self, model: type[Model], path: str, query: Query) -> Iterator[Model]:
        """The items of a list, asked for page by page."""
        cursor: str | None = None
        while True:
            page = self.read(Page[model], "GET", path, {**query, "limit": 200, "cursor": cursor})  # type: ignore[valid-type]
            yield from page.items
            cursor = page.next_cursor
            if cursor is None:
                return

    def patiently(self, once: Callable[[], Result]) -> Result:
        """What `once` returns, called again while it meets what passes."""
        retrying = Retrying(
            retry=retry_if_exception(passes), wait=_wait, stop=stop_before_delay(self.patience), reraise=True
        )
        return retrying(once)

    @contextmanager
    def opened(
        self, method: str, path: str, query: Query | None, headers: Mapping[str, str], **request: Any
    ) -> Iterator[httpx.Response]:
        """The answer to a request that is sent once, its body still to be read. Raises ApiError, while reading too."""
        if not path.startswith("/") or path.startswith("//"):
            raise ApiError(f"{path!r} is no path of the service", code="foreign_url")  # the key must not go elsewhere
        params = {name: value for name, value in (query or {}).items() if value is not None}
        try:
            with self._http.stream(method, path, params=params, headers=dict(headers), **request) as response:
                if response.is_error:
                    response.read()
                    raise of_response(response)
                yield response
        except httpx.TransportError as error:
            raise ApiError(f"{self.url} does not answer ({error or repr(error)}); is the service up?") from error


def blocks(file: Path) -> Iterator[bytes]:
    """A file as a request's body."""
    with file.open("rb") as reading:
        while block := reading.read(_BLOCK):
            yield block


def passes(error: BaseException) -> bool:
    """Whether the same request may succeed soon."""
    if not isinstance(error, ApiError):
        return False
    return error.code in ("unreachable", "idempotency_in_progress") or error.status in _AGAIN


def pause(tries: int, error: BaseException | None) -> float:
    """Seconds to wait after so many tries: at random, so that many clients do not come back at once."""
    if isinstance(error, ApiError) and error.retry_after is not None:
        return error.retry_after
    most = min(_LONGEST_PAUSE, _FIRST_PAUSE * 2 ** min(tries - 1, 10))
    return random.uniform(most / 2, most)  # noqa: S311 - no secret


def _wait(state: RetryCallState) -> float:
    return pause(state.attempt_number, state.outcome.exception() if state.outcome else None)
