"""A server of the catalog: one request, its limits, and what is wrong where there is no answer."""

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

from service.contracts.catalog import Asked

MOST_BYTES = 8 * 2**20
"""Of a response; a longer one is not read to its end."""
MOST_CHARACTERS = 200_000
"""Of an answer; what comes later is neither kept nor read."""
LONGEST_WAIT = 30.0
"""Seconds between two requests about the same thing, unless the server asks for more."""
LONGEST_RETRY_AFTER = 120.0
"""Seconds: the most that a server is believed when it asks to wait."""
CONNECT_SECONDS = 10.0
"""Until a server that is there has taken a connection."""

_REFUSED = (400, 413, 415, 422)
"""The server does not want this image or text; it may want others."""
_PASSING = (408, 425, 429)
"""Statuses, besides those of 500 and more, that another time may not have."""
_UNSTORABLE = re.compile("[\x00\ud800-\udfff]")


class Fault(Exception):
    """No answer this time."""

    def __init__(self, reason: str, retry_after: float = 0.0, throttled: bool = False) -> None:
        super().__init__(reason)
        self.retry_after, self.throttled = retry_after, throttled


class Refused(Exception):
    """The server will not answer about this image."""


class SetUpWrongly(ValueError):
    """The catalog's entry, or its token, is not what the server wants: no question will be answered."""


class Server:
    """Posts to the server of `entry`, whose `name` is for people. Any thread may; connections are kept and shared."""

    def __init__(self, name: str, entry: Asked) -> None:
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
        """The body of the server's answer of status 200 to `body`, JSON. Raises Fault, Refused or SetUpWrongly."""
        url, begun = f"{self._base}/{path}", time.monotonic()
        try:
            with self._client.stream(
                "POST", url, content=body, headers={"Content-Type": "application/json"}
            ) as response:
                data = self._read(response, begun)
        except httpx.HTTPError as error:
            raise Fault(self.clean(f"{type(error).__name__}: {error}")) from error
        if response.status_code == 200:
            return data
        reason = f"HTTP {response.status_code} {response.reason_phrase}: {self.excerpt(data)}"
        if response.status_code in _REFUSED:
            raise Refused(reason)
        if response.status_code in _PASSING or response.status_code >= 500:
            raise Fault(reason, _retry_after(response.headers), throttled=response.status_code == 429)
        raise SetUpWrongly(
            f"{self.name} at {self.host} is set up wrongly (`url`, `model` or `token_env` of its catalog entry): "
            f"{reason}"
        )

    def _read(self, response: httpx.Response, begun: float) -> bytes:
        data = bytearray()
        for piece in response.iter_bytes():
            data += piece
            if len(data) > MOST_BYTES:
                raise Fault(f"the response is longer than {MOST_BYTES} bytes")
            if time.monotonic() - begun > self._seconds:
                raise Fault(f"the response was not whole after {self._seconds:g} seconds")
        return bytes(data)

    def excerpt(self, data: bytes) -> str:
        """The beginning of what a server sent, for an error's text."""
        # Cleaned before it is cut: half a token would not be found.
        return " ".join(self.clean(data[:MOST_CHARACTERS].decode("utf-8", "replace")).split())[:300] or "no words"

    def clean(self, text: str) -> str:
        """What of a server's words can be stored and shown: no token, and nothing that a database cannot hold."""
        shown = text.replace(self._token, "[token]") if self._token else text
        return _UNSTORABLE.sub("\N{REPLACEMENT CHARACTER}", shown)


def retrying(closed: threading.Event, first_wait: float, tries: int | None = None) -> Retrying:
    """Asks again after each Fault, with growing, jittered waits, `tries` times in all or until `closed`."""
    backoff = wait_exponential_jitter(initial=first_wait, max=LONGEST_WAIT, jitter=first_wait)

    def wait(state: RetryCallState) -> float:
        fault = state.outcome.exception() if state.outcome else None
        return max(backoff(state), fault.retry_after if isinstance(fault, Fault) else 0.0)

    ended = stop_when_event_set(closed)
    return Retrying(
        retry=retry_if_exception_type(Fault),
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
        raise SetUpWrongly(f"{name} needs the environment variable {variable} of the worker")
    if not re.fullmatch(r"[\x21-\x7e]+", token):
        raise SetUpWrongly(f"{name}: {variable} holds blanks or signs that no API key has")
    return token


def _retry_after(headers: httpx.Headers) -> float:
    """Seconds that the server asks to wait: given as such, or as a date."""
    value = headers.get("Retry-After", "").strip()
    try:
        seconds = float(value) if re.fullmatch(r"\d{1,9}(\.\d*)?", value) else _until(value)
    except (TypeError, ValueError):
        return 0.0
    return min(max(seconds, 0.0), LONGEST_RETRY_AFTER)


def _until(date: str) -> float:
    when = email.utils.parsedate_to_datetime(date)
    return (when - datetime.now(UTC if when.tzinfo else None)).total_seconds()
