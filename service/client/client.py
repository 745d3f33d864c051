"""Every route as a typed method."""

import math
import time
import uuid
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self, TypeVar

from pydantic import BaseModel, TypeAdapter

from service.catalog.schemas import CatalogView
from service.checkpoints.schemas import CheckpointSummary, CheckpointView
from service.client import download, events
from service.client.events import Event
from service.client.transport import Query, Transport
from service.contracts.plan import Plan
from service.contracts.status import TERMINAL, JobStatus
from service.curves.schemas import Curves
from service.events.schemas import LAST_ID, RunEnd, RunEvent, RunProgress
from service.generations.schemas import GenerationView
from service.logs.schemas import LogPart
from service.pages import Page
from service.rewards.schemas import RewardGroupView
from service.runs.schemas import RunSummary, RunView
from service.samples.schemas import SampleView

Id = uuid.UUID | str
Model = TypeVar("Model", bound=BaseModel)

DEFAULT_URL = "http://127.0.0.1:8000"
_LONGEST_WAIT = 50.0
"""Seconds that one request waits for a generation; below the timeouts of usual proxies."""
_LOG_SECONDS = 1.0


class Client:
    """A connection to the service at `url`, with an API key where it wants one. Every method raises ApiError.

    `timeout`: seconds of silence after which a request is given up. `patience`: seconds for which a request is sent
    again when it got no answer or came too early; what it did is not done twice.
    """

    def __init__(
        self, url: str = DEFAULT_URL, key: str | None = None, *, timeout: float = 60.0, patience: float = 10.0
    ) -> None:
        self.url = url
        self._transport = Transport(url, key, timeout, patience)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Give up the connection."""
        self._transport.close()

    # Runs

    def create_run(self, spec: Mapping[str, Any]) -> RunView:
        """Start an alignment run; `spec` is the body of `POST /runs`."""
        return self._read(RunView, "POST", "/runs", json=dict(spec))

    def run(self, id: Id) -> RunView:
        """A run in full."""
        return self._read(RunView, "GET", f"/runs/{id}")

    def runs(
        self,
        *,
        status: Sequence[str] = (),
        model: str | None = None,
        algorithm: str | None = None,
        label: Sequence[str] = (),
    ) -> Iterator[RunSummary]:
        """All runs that fit, newest first, fetched page by page."""
        query: Query = {"status": status, "model": model, "algorithm": algorithm, "label": label}
        return self._pages(RunSummary, "/runs", query)

    def cancel(self, id: Id) -> RunView:
        """Ask for a run's end."""
        return self._read(RunView, "POST", f"/runs/{id}/cancel")

    def pause(self, id: Id) -> RunView:
        """Ask a run to save what it has done and to give up its worker."""
        return self._read(RunView, "POST", f"/runs/{id}/pause")

    def resume(self, id: Id, max_steps: int | None = None) -> RunView:
        """Go on with a paused or ended run from its newest checkpoint, to other steps where they are said."""
        body = {} if max_steps is None else {"max_steps": max_steps}
        return self._read(RunView, "POST", f"/runs/{id}/resume", json=body)

    def request_checkpoint(self, id: Id) -> RunView:
        """Ask a running run for a checkpoint after its present step."""
        return self._read(RunView, "POST", f"/runs/{id}/checkpoint")

    def clone(self, id: Id, overrides: Mapping[str, Any] | None = None) -> RunView:
        """Start a run with the spec of another, and what `overrides` says instead."""
        return self._read(RunView, "POST", f"/runs/{id}/clone", json=dict(overrides or {}))

    def update_run(self, id: Id, **changes: Any) -> RunView:
        """Change a run's `name`, `notes`, `labels` or `priority`."""
        return self._read(RunView, "PATCH", f"/runs/{id}", json=changes)

    def delete_run(self, id: Id) -> None:
        """Delete an ended run, and everything that is only its."""
        self._transport.send("DELETE", f"/runs/{id}")

    def events(self, id: Id, after: int = 0, *, every: float = 1.0, timeout: float | None = None) -> Iterator[Event]:
        """What happens to a run, from its beginning or after the event of id `after`; the last one is its RunEnd.

        Between the numbered RunEvents a RunProgress says where it stands, at most once in `every` seconds. An
        interrupted stream is taken up where it broke off. After `timeout` seconds the events end without a RunEnd.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        return events.follow(self._transport, f"/runs/{id}/events", after, every, deadline)

    def wait_for_run(
        self,
        id: Id,
        timeout: float | None = None,
        *,
        until: Collection[str] = TERMINAL,
        every: float = 1.0,
        seen: Callable[[RunProgress], None] = lambda _: None,
    ) -> RunView:
        """The run once it has ended, or has one of the states in `until`. It is not asked for: its events are followed.

        `seen` gets each RunProgress, at most once in `every` seconds. Raises TimeoutError after `timeout` seconds.
        """
        status: JobStatus | None = None
        for event in self.events(id, LAST_ID, every=every, timeout=timeout):  # what happened so far is not of interest
            if isinstance(event, RunEvent):
                continue
            if isinstance(event, RunProgress):
                seen(event)
            status = event.status
            if status in until or isinstance(event, RunEnd):
                return self.run(id)
        raise TimeoutError(f"run {id} is {status or 'not heard of'} after {timeout:g} s")

    def curves(
        self,
        id: Id,
        metrics: Sequence[str] = (),
        *,
        since_step: int | None = None,
        max_points: int | None = None,
        smooth: float | None = None,
    ) -> Curves:
        """A run's metrics over its steps; a name may end in `*`."""
        return self._read(Curves, "GET", f"/runs/{id}/curves", _curve_query(metrics, since_step, max_points, smooth))

    def curves_as(
        self, id: Id, media_type: Literal["text/csv", "image/png", "image/svg+xml"], metrics: Sequence[str] = ()
    ) -> bytes:
        """A run's curves as a table or a figure."""
        headers = {"Accept": media_type}
        return self._transport.send("GET", f"/runs/{id}/curves", _curve_query(metrics), headers=headers).content

    def rewards(
        self, id: Id, *, step: int | None = None, reward: str | None = None, granularity: int | None = None
    ) -> Iterator[RewardGroupView]:
        """A run's reward groups, fetched page by page."""
        query: Query = {"step": step, "reward": reward, "granularity": granularity}
        return self._pages(RewardGroupView, f"/runs/{id}/rewards", query)

    def samples(self, id: Id, *, kind: str | None = None, step: int | None = None) -> Iterator[SampleView]:
        """A run's sample pictures, fetched page by page; `picture(sample.image)` is the PNG."""
        return self._pages(SampleView, f"/runs/{id}/samples", {"kind": kind, "step": step})

    def logs(self, id: Id, *, attempt: int | None = None, offset: int = 0) -> LogPart:
        """A part of what the run's process printed; ask again from its `next_offset`."""
        return self._read(LogPart, "GET", f"/runs/{id}/logs", {"attempt": attempt, "offset": offset})

    def follow_logs(self, id: Id, *, attempt: int | None = None, every: float = _LOG_SECONDS) -> Iterator[LogPart]:
        """What the run's process prints, from the newest attempt's first byte on, until the run has ended.

        A later attempt is gone on to when there is one. While nothing is printed it is asked for `every` so many
        seconds.
        """
        offset = 0
        while True:
            ended = self.run(id).status in TERMINAL
            while True:
                part = self.logs(id, attempt=attempt, offset=offset)
                if part.text:
                    yield part
                attempt, offset = part.attempt, part.next_offset
                if offset < part.size:
                    continue
                if part.next_attempt is None:
                    break
                attempt, offset = part.next_attempt, 0
            if ended:
                return
            time.sleep(every)

    # Checkpoints

    def checkpoints(self, run: Id) -> Iterator[CheckpointSummary]:
        """A run's checkpoints, newest step first, fetched page by page."""
        return self._pages(CheckpointSummary, f"/runs/{run}/checkpoints", {})

    def checkpoint(self, id: Id) -> CheckpointView:
        """A checkpoint with its files."""
        return self._read(CheckpointView, "GET", f"/checkpoints/{id}")

    def download(self, checkpoint: Id, directory: Path) -> list[Path]:
        """Save all files of a checkpoint in `directory`, checked against their hashes.

        A broken transfer goes on where it broke off; a file has its name only when it is whole.
        """
        return [download.save(self._transport, file, directory) for file in self.checkpoint(checkpoint).files]

    def delete_checkpoint(self, id: Id) -> None:
        """Delete a checkpoint's files; its row stays for what came from it."""
        self._transport.send("DELETE", f"/checkpoints/{id}")

    # Generations

    def generate(self, spec: Mapping[str, Any], wait: float | None = None) -> GenerationView:
        """Draw pictures; `spec` is the body of `POST /generate`. With `wait`, up to so many seconds for the end."""
        deadline = time.monotonic() + (wait or 0)
        generation = self._read(GenerationView, "POST", "/generate", json=dict(spec), headers=_prefer(wait or 0))
        return self._generation_until(generation, deadline)

    def generation(self, id: Id) -> GenerationView:
        """A generation and its pictures so far."""
        return self._read(GenerationView, "GET", f"/generations/{id}")

    def wait_for_generation(self, id: Id, timeout: float) -> GenerationView:
        """The generation once it has ended. Raises TimeoutError after `timeout` seconds."""
        deadline = time.monotonic() + timeout
        generation = self._generation_until(self.generation(id), deadline)
        if generation.status not in TERMINAL:
            raise TimeoutError(f"generation {id} is {generation.status} after {timeout:g} s")
        return generation

    def cancel_generation(self, id: Id) -> GenerationView:
        """Ask for a generation's end."""
        return self._read(GenerationView, "POST", f"/generations/{id}/cancel")

    def image(self, generation: Id, number: int) -> bytes:
        """One picture, PNG."""
        return self.picture(f"/generations/{generation}/images/{number}")

    def grid(self, generation: Id) -> bytes:
        """All pictures side by side, PNG."""
        return self.picture(f"/generations/{generation}/grid.png")

    def picture(self, path: str) -> bytes:
        """The PNG at a path that an answer named."""
        return self._transport.send("GET", path).content

    # What there is, and what it costs

    def catalog(self) -> CatalogView:
        """What a request may name."""
        return self._read(CatalogView, "GET", "/catalog")

    def plan(self, spec: Mapping[str, Any]) -> Plan:
        """What a run would cost; nothing is started."""
        return self._read(Plan, "POST", "/plans", json=dict(spec))

    def _generation_until(self, generation: GenerationView, deadline: float) -> GenerationView:
        while generation.status not in TERMINAL and (left := deadline - time.monotonic()) > 0:
            path = f"/generations/{generation.id}"
            generation = self._read(GenerationView, "GET", path, headers=_prefer(left))
        return generation

    def _pages(self, model: type[Model], path: str, query: Query) -> Iterator[Model]:
        cursor: str | None = None
        while True:
            page = self._read(Page[model], "GET", path, {**query, "limit": 200, "cursor": cursor})  # type: ignore[valid-type]
            yield from page.items
            cursor = page.next_cursor
            if cursor is None:
                return

    def _read(self, model: type[Model], method: str, path: str, query: Query | None = None, **request: Any) -> Model:
        content = self._transport.send(method, path, query, **request).content
        # By name too: the service fills some fields from columns of other names.
        return TypeAdapter(model).validate_json(content, by_alias=True, by_name=True)


def _prefer(wait: float) -> dict[str, str]:
    seconds = min(wait, _LONGEST_WAIT)
    return {"Prefer": f"wait={math.ceil(seconds)}"} if seconds > 0 else {}


def _curve_query(
    metrics: Sequence[str], since_step: int | None = None, max_points: int | None = None, smooth: float | None = None
) -> Query:
    return {"metrics": list(metrics), "since_step": since_step, "max_points": max_points, "smooth": smooth}
