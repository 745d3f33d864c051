"""Follow the event streams of jobs across lost connections and restarts of the service."""

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
"""An event of a run, its current progress, or its end."""
EvaluationEvent = RunEvent | EvaluationProgress | EvaluationEnd
P = TypeVar("P", RunProgress, EvaluationProgress)
E = TypeVar("E", RunEnd, EvaluationEnd)

_TIMEOUT = httpx.Timeout(45.0, connect=10.0)
"""The service writes at least every 15 s, so a connection that stays silent for longer than this is lost."""
_PATIENCE_SECONDS = 600.0
"""Number of seconds for which the client tries to reconnect an established stream."""


class Events(Transport):
    """Base class of the resources whose jobs have an event stream."""

    def _follow(
        self, path: str, kinds: tuple[type[P], type[E]], after: int, every: float, timeout: float | None
    ) -> Iterator[RunEvent | P | E]:
        """Yield the events of a job that follow the event with id `after`, until the job ends or `timeout` is reached.

        `kinds` contains the classes for the job's progress and end. An interrupted stream is resumed after the last
        event received. Raises ApiError.
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
                        raise ApiError(f"The server at {self.url} is not a G²RPO service", code="foreign_service")
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
    id: Id, events: Iterable[RunEvent | P | E], until: Collection[str], seen: Callable[[P], None], timeout: float | None
) -> None:
    """Follow a job until it ends or reaches a state in `until`, and call `seen` with each progress message.

    Raises TimeoutError if `events` ends before that, which happens after `timeout` seconds.
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
    """Parse the bytes of an event stream, and yield the name and data of each complete event.

    Only LF and CRLF end a line. `str.splitlines` is not used because it also splits at other characters.
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
