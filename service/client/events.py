"""Event streams of jobs, continued across lost connections and restarts of the service."""

import json
import math
import time
from collections.abc import Callable, Collection, Iterable, Iterator
from typing import TypeVar

import httpx

from service.api.events.schemas import EvaluationEnd, EvaluationProgress, RunEnd, RunEvent, RunProgress
from service.client.errors import ApiError
from service.client.transport import Id, Transport, is_transient, pause

Event = RunEvent | RunProgress | RunEnd
"""An event, the current progress, or the end of a run."""
EvaluationEvent = RunEvent | EvaluationProgress | EvaluationEnd
P = TypeVar("P", RunProgress, EvaluationProgress)
E = TypeVar("E", RunEnd, EvaluationEnd)

_TIMEOUT = httpx.Timeout(45.0, connect=10.0)
"""The service writes at least every 15 s: a connection that is silent for longer is lost."""
_PATIENCE_SECONDS = 600.0
"""How long an established stream is reconnected."""


class Events(Transport):
    """Following the event stream of a job."""

    def _follow(
        self, path: str, kinds: tuple[type[P], type[E]], after: int, every: float, timeout: float | None
    ) -> Iterator[RunEvent | P | E]:
        """The events of a job after the event with id `after`, until its end or for `timeout` seconds.

        `kinds` are the classes of its progress and its end. An interrupted stream continues after the last event
        that was received. Raises ApiError.
        """
        deadline = math.inf if timeout is None else time.monotonic() + timeout
        attempts, patience, last_received = 0, self._patience, time.monotonic()
        while time.monotonic() < deadline:
            headers = {"Accept": "text/event-stream", "Last-Event-ID": str(after)}
            if timeout is not None:
                headers["Prefer"] = f"wait={max(1, math.ceil(deadline - time.monotonic()))}"
            failure: ApiError | None = None
            try:
                with self._stream("GET", path, {"every": every}, headers, timeout=_TIMEOUT) as response:
                    if not response.headers.get("Content-Type", "").startswith("text/event-stream"):
                        raise ApiError(f"The server at {self.url} is not this service", code="foreign_service")
                    for name, data in frames(response.iter_bytes()):
                        event = _parse(name, data, kinds)
                        after = event.id if isinstance(event, RunEvent) else after
                        attempts, patience = 0, max(patience, _PATIENCE_SECONDS)
                        last_received = time.monotonic()
                        yield event
                        if isinstance(event, kinds[1]):
                            return
            except ApiError as error:
                if not is_transient(error):
                    raise
                failure = error
            attempts += 1
            seconds = pause(attempts, failure)
            if failure is not None and time.monotonic() + seconds > last_received + patience:
                raise failure
            time.sleep(max(0.0, min(seconds, deadline - time.monotonic())))


def wait_for_end(
    id: Id,
    events: Iterable[RunEvent | P | E],
    until: Collection[str],
    seen: Callable[[P], None],
    timeout: float | None,
) -> None:
    """Follow a job to its end or to a state in `until`, and call `seen` with its progress.

    Raises TimeoutError if the events end earlier, which they do after `timeout` seconds.
    """
    status = "unknown"
    for event in events:
        if isinstance(event, RunEvent):
            continue
        status = event.status
        if isinstance(event, RunProgress | EvaluationProgress):
            seen(event)
            if status not in until:
                continue
        return
    raise TimeoutError(f"Job {id} is still {status} after {timeout:g} s")


def frames(blocks: Iterable[bytes]) -> Iterator[tuple[str, str]]:
    """Name and data of each complete event in the bytes of an event stream.

    Lines end in LF or CRLF only; `str.splitlines` splits at other characters too.
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


def _parse(name: str, data: str, kinds: tuple[type[P], type[E]]) -> RunEvent | P | E:
    try:
        if name == "error":
            problem = json.loads(data)
            raise ApiError.from_problem(problem, int(problem["status"]))
        if name == "progress":
            return kinds[0].model_validate_json(data)
        return (kinds[1] if name == "end" else RunEvent).model_validate_json(data)
    except (ValueError, KeyError, TypeError) as error:
        raise ApiError(f"Invalid event {name!r}: {error}", code="bad_event") from error
