"""Following a job by its event stream, across lost connections and restarts of the service."""

import json
import math
import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

import httpx

from service.api.events.schemas import EvaluationEnd, EvaluationProgress, RunEnd, RunEvent, RunProgress
from service.client.errors import ApiError, of_problem
from service.client.transport import Transport, passes, pause

Event = RunEvent | RunProgress | RunEnd
"""What happened, where the run stands, or its end."""
EvaluationEvent = RunEvent | EvaluationProgress | EvaluationEnd
"""The same of an evaluation."""
P = TypeVar("P", RunProgress, EvaluationProgress)
E = TypeVar("E", RunEnd, EvaluationEnd)

_TIMEOUT = httpx.Timeout(45.0, connect=10.0)
"""The service writes every 15 s at least: a connection silent for longer is lost."""
_PATIENCE_SECONDS = 600.0
"""For how long a stream that had begun is asked for again."""


def follow(
    transport: Transport,
    path: str,
    kinds: tuple[type[P], type[E]],
    after: int,
    every: float,
    deadline: float | None,
) -> Iterator[RunEvent | P | E]:
    """A job's events after that of id `after`, to its end or until the monotonic clock shows `deadline`.

    `kinds` are the classes of its progress and of its end. A stream that breaks off is taken up after the last event
    that came. Raises ApiError.
    """
    tries, patience, heard = 0, transport.patience, time.monotonic()
    while deadline is None or time.monotonic() < deadline:
        headers = {"Accept": "text/event-stream", "Last-Event-ID": str(after)}
        if deadline is not None:
            headers["Prefer"] = f"wait={max(1, math.ceil(deadline - time.monotonic()))}"
        failure: ApiError | None = None
        try:
            with transport.opened("GET", path, {"every": every}, headers, timeout=_TIMEOUT) as response:
                if not response.headers.get("Content-Type", "").startswith("text/event-stream"):
                    raise ApiError(f"what answers at {transport.url} is not this service", code="foreign_service")
                for name, data in frames(response.iter_bytes()):
                    event = _read(name, data, kinds)
                    after = event.id if isinstance(event, RunEvent) else after
                    tries, patience, heard = 0, max(patience, _PATIENCE_SECONDS), time.monotonic()
                    yield event
                    if isinstance(event, kinds[1]):
                        return
        except ApiError as error:
            if not passes(error):
                raise
            failure = error
        tries += 1
        seconds = pause(tries, failure)
        if failure is not None and time.monotonic() + seconds > heard + patience:
            raise failure
        time.sleep(min(seconds, max(0.0, deadline - time.monotonic())) if deadline is not None else seconds)


def frames(blocks: Iterable[bytes]) -> Iterator[tuple[str, str]]:
    """Name and data of each event in the bytes of an event stream; what breaks off in the middle is none.

    Lines end in LF or CRLF, and nowhere else: `str.splitlines` would know more ends.
    """
    name, data, rest = "", list[str](), b""
    for block in blocks:
        *lines, rest = (rest + block).replace(b"\r\n", b"\n").split(b"\n")
        for line in lines:
            field, _, value = line.decode("utf-8", errors="replace").rstrip("\r").partition(":")
            value = value.removeprefix(" ")
            if field == "event":
                name = value
            elif field == "data":
                data.append(value)
            elif not line.rstrip(b"\r"):
                if data:
                    yield name, "\n".join(data)
                name, data = "", []


def _read(name: str, data: str, kinds: tuple[type[P], type[E]]) -> RunEvent | P | E:
    try:
        if name == "error":
            problem = json.loads(data)
            raise of_problem(problem, int(problem["status"]))
        if name == "progress":
            return kinds[0].model_validate_json(data)
        return (kinds[1] if name == "end" else RunEvent).model_validate_json(data)
    except (ValueError, KeyError, TypeError) as error:
        raise ApiError(f"the event {name!r} cannot be read by this client: {error}", code="bad_event") from error
