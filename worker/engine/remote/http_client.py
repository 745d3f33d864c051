"""Client for a server in the catalog, with request limits and classification of failures."""

import email.utils
import os
import re
import threading
import time
from datetime import UTC, datetime

import httpx
import tenacity
from tenacity.wait import wait_exponential_jitter

from service.contracts.catalog import RemoteServer

MAX_BYTES = 8 * 2**20
"""Maximum size of a response in bytes. A request fails if its response is larger."""
MAX_CHARACTERS = 200_000
"""Maximum length of a text. The rest of a longer text is discarded."""
MAX_WAIT = 30.0
"""Maximum seconds between two attempts, unless the server requests a longer wait."""
MAX_RETRY_AFTER = 120.0
"""Maximum seconds to wait because of a Retry-After header."""
CONNECT_SECONDS = 10.0
"""Maximum timeout for establishing a connection, in seconds."""

_REJECTED = (400, 413, 415, 422)
"""Statuses with which the server rejects this image or text. It may accept others."""
_TEMPORARY = (408, 425, 429)
"""Statuses of temporary failures, in addition to all statuses of 500 and above."""
_UNSTORABLE = re.compile("[\x00\ud800-\udfff]")


class RequestFailed(Exception):
    """Raised when a request fails but may succeed later."""

    def __init__(self, reason: str, retry_after: float = 0.0, throttled: bool = False) -> None:
        super().__init__(reason)
        self.retry_after, self.throttled = retry_after, throttled


class RequestRejected(Exception):
    """Raised when the server rejects this image or text."""


class Misconfigured(ValueError):
    """Raised when the catalog entry or its token is wrong, so that all requests fail."""


class Server:
    """Sends POST requests to the server of a catalog entry through a connection pool. Safe to use from any thread.

    name: the name of the server in error messages.
    """

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
        """Send `body` (JSON) and return the body of the response, if its status is 200.

        Raises RequestFailed, RequestRejected or Misconfigured if the request does not succeed.
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
                raise RequestFailed(f"the response exceeds the maximum of {MAX_BYTES} bytes")
            if time.monotonic() - started > self._seconds:
                raise RequestFailed(f"the response was not complete after {self._seconds:g} seconds")
        return bytes(data)

    def excerpt(self, data: bytes) -> str:
        """Return the beginning of a response for use in an error message."""
        # Clean the text before truncating it, because truncation could split a token.
        return " ".join(self.clean(data[:MAX_CHARACTERS].decode("utf-8", "replace")).split())[:300] or "empty"

    def clean(self, text: str) -> str:
        """Return a server's text with the token and all characters that PostgreSQL cannot store replaced."""
        hidden = text.replace(self._token, "[token]") if self._token else text
        return _UNSTORABLE.sub("\N{REPLACEMENT CHARACTER}", hidden)


def retrying(closed: threading.Event, first_wait: float, tries: int | None = None) -> tenacity.Retrying:
    """Return a Retrying object that retries after RequestFailed with exponential, jittered waits.

    It stops after `tries` attempts, if given, or when `closed` is set, and raises the last error again.
    """
    backoff = wait_exponential_jitter(initial=first_wait, max=MAX_WAIT, jitter=first_wait)

    def wait(state: tenacity.RetryCallState) -> float:
        fault = state.outcome.exception() if state.outcome else None
        return max(backoff(state), fault.retry_after if isinstance(fault, RequestFailed) else 0.0)

    ended = tenacity.stop_when_event_set(closed)
    return tenacity.Retrying(
        retry=tenacity.retry_if_exception_type(RequestFailed),
        wait=wait,
        sleep=tenacity.sleep_using_event(closed),
        stop=ended if tries is None else ended | tenacity.stop_after_attempt(tries),
        reraise=True,
    )


def _token(name: str, variable: str | None) -> str | None:
    if variable is None:
        return None
    token = os.environ.get(variable, "").strip()
    if not token:
        raise Misconfigured(f"{name} needs the environment variable {variable}, which is not set for the worker")
    if not re.fullmatch(r"[\x21-\x7e]+", token):
        raise Misconfigured(f"{name}: {variable} contains characters that are not allowed in an API key")
    return token


def _retry_after(headers: httpx.Headers) -> float:
    """Return the wait in seconds that a Retry-After header requests, as a number or a date.

    Returns 0 if there is no valid header.
    """
    value = headers.get("Retry-After", "").strip()
    try:
        seconds = float(value) if re.fullmatch(r"\d{1,9}(\.\d*)?", value) else _until(value)
    except (TypeError, ValueError):
        return 0.0
    return min(max(seconds, 0.0), MAX_RETRY_AFTER)


def _until(date: str) -> float:
    when = email.utils.parsedate_to_datetime(date)
    return (when - datetime.now(UTC if when.tzinfo else None)).total_seconds()
