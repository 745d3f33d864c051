"""A server of the catalog: requests, their limits, and classified failures."""

import email.utils
import os
import re
import threading
import time
from datetime import UTC, datetime

import httpx
from tenacity import (
    RetryCallState,
    Retrying,
    retry_if_exception_type,
    sleep_using_event,
    stop_after_attempt,
    stop_when_event_set,
)
from tenacity.wait import wait_exponential_jitter

from service.contracts.catalog import RemoteServer

MAX_BYTES = 8 * 2**20
"""Maximum size of a response; a longer one is a failure."""
MAX_CHARACTERS = 200_000
"""Maximum length of a text; the remainder is discarded."""
MAX_WAIT = 30.0
"""Maximum seconds between two attempts, unless the server demands more."""
MAX_RETRY_AFTER = 120.0
"""Maximum seconds accepted from a Retry-After header."""
CONNECT_SECONDS = 10.0
"""Timeout of a connection."""

_REJECTED = (400, 413, 415, 422)
"""The server rejects this image or text; it may accept others."""
_TEMPORARY = (408, 425, 429)
"""Temporary failures, like all statuses from 500."""
_UNSTORABLE = re.compile("[\x00\ud800-\udfff]")


class RequestFailed(Exception):
    """The request failed; a later one may succeed."""

    def __init__(self, reason: str, retry_after: float = 0.0, throttled: bool = False) -> None:
        super().__init__(reason)
        self.retry_after, self.throttled = retry_after, throttled


class RequestRejected(Exception):
    """The server rejects this image or text."""


class Misconfigured(ValueError):
    """The catalog entry or its token is wrong; all requests fail."""


class Server:
    """Sends POST requests to the server of `entry`, from any thread, with a connection pool. name: for messages."""

    def __init__(self, name: str, entry: RemoteServer) -> None:
        self.name, self._base = name, str(entry.url).rstrip("/")
        self.host = httpx.URL(self._base).netloc.decode()
        self._seconds = entry.timeout_seconds
        self._token = _token(name, entry.token_env)
        self._client = httpx.Client(
            headers={"Authorization": f"Bearer {self._token}"} if self._token else {},
            timeout=httpx.Timeout(entry.timeout_seconds, connect=min(CONNECT_SECONDS, entry.timeout_seconds)),
            limits=httpx.Limits(max_connections=entry.concurrency, max_keepalive_connections=entry.concurrency),
        )

    def post(self, path: str, body: bytes) -> bytes:
        """Send `body` (JSON); the body of a response with status 200.

        Raises RequestFailed, RequestRejected or Misconfigured.
        """
        url, started = f"{self._base}/{path}", time.monotonic()
        try:
            with self._client.stream(
                "POST", url, content=body, headers={"Content-Type": "application/json"}
            ) as response:
                data = self._read(response, started)
        except httpx.HTTPError as error:
            raise RequestFailed(self.clean(f"{type(error).__name__}: {error}")) from error
        if response.status_code == 200:
            return data
        reason = f"HTTP {response.status_code} {response.reason_phrase}: {self.excerpt(data)}"
        if response.status_code in _REJECTED:
            raise RequestRejected(reason)
        if response.status_code in _TEMPORARY or response.status_code >= 500:
            raise RequestFailed(reason, _retry_after(response.headers), throttled=response.status_code == 429)
        raise Misconfigured(
            f"{self.name} at {self.host} is misconfigured; fix `url`, `model` or `token_env` of its catalog entry: "
            f"{reason}"
        )

    def _read(self, response: httpx.Response, started: float) -> bytes:
        data = bytearray()
        for piece in response.iter_bytes():
            data += piece
            if len(data) > MAX_BYTES:
                raise RequestFailed(f"the response is longer than {MAX_BYTES} bytes")
            if time.monotonic() - started > self._seconds:
                raise RequestFailed(f"the response was not complete after {self._seconds:g} seconds")
        return bytes(data)

    def excerpt(self, data: bytes) -> str:
        """The beginning of a response, for an error message."""
        # Cleaned before truncation, which could split a token.
        return " ".join(self.clean(data[:MAX_CHARACTERS].decode("utf-8", "replace")).split())[:300] or "empty"

    def clean(self, text: str) -> str:
        """Text of a server without the token and without characters that PostgreSQL cannot store."""
        hidden = text.replace(self._token, "[token]") if self._token else text
        return _UNSTORABLE.sub("\N{REPLACEMENT CHARACTER}", hidden)


def retrying(closed: threading.Event, first_wait: float, tries: int | None = None) -> Retrying:
    """Retry after RequestFailed with exponential, jittered waits, up to `tries` attempts or until `closed` is set."""
    backoff = wait_exponential_jitter(initial=first_wait, max=MAX_WAIT, jitter=first_wait)

    def wait(state: RetryCallState) -> float:
        fault = state.outcome.exception() if state.outcome else None
        return max(backoff(state), fault.retry_after if isinstance(fault, RequestFailed) else 0.0)

    ended = stop_when_event_set(closed)
    return Retrying(
        retry=retry_if_exception_type(RequestFailed),
        wait=wait,
        sleep=sleep_using_event(closed),
        stop=ended if tries is None else ended | stop_after_attempt(tries),
        reraise=True,
    )


def _token(name: str, variable: str | None) -> str | None:
    if variable is None:
        return None
    token = os.environ.get(variable, "").strip()
    if not token:
        raise Misconfigured(f"{name} needs the environment variable {variable} of the worker")
    if not re.fullmatch(r"[\x21-\x7e]+", token):
        raise Misconfigured(f"{name}: {variable} contains spaces or characters that no API key has")
    return token


def _retry_after(headers: httpx.Headers) -> float:
    """The seconds of a Retry-After header: a number or a date; 0 without one."""
    value = headers.get("Retry-After", "").strip()
    try:
        seconds = float(value) if re.fullmatch(r"\d{1,9}(\.\d*)?", value) else _until(value)
    except (TypeError, ValueError):
        return 0.0
    return min(max(seconds, 0.0), MAX_RETRY_AFTER)


def _until(date: str) -> float:
    when = email.utils.parsedate_to_datetime(date)
    return (when - datetime.now(UTC if when.tzinfo else None)).total_seconds()
