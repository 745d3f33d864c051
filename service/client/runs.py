"""Runs, and what they leave: curves, rewards, images, logs."""

import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any, Literal

from service.api.curves.schemas import Curves
from service.api.events.schemas import LAST_ID, RunEnd, RunEvent, RunProgress
from service.api.logs.schemas import LogPart
from service.api.runs.reward_groups import RewardGroupView
from service.api.runs.samples import SampleView
from service.api.runs.schemas import AttemptView, RunSummary, RunView
from service.client import events
from service.client.events import Event
from service.client.transport import Id, Query, Transport
from service.contracts.status import TERMINAL, JobStatus


class Runs:
    """The routes under `/runs`."""

    _transport: Transport

    def create_run(self, spec: Mapping[str, Any]) -> RunView:
        """Start an alignment run; `spec` is the body of `POST /runs`."""
        return self._transport.read(RunView, "POST", "/runs", json=dict(spec))

    def run(self, id: Id) -> RunView:
        """A run in full."""
        return self._transport.read(RunView, "GET", f"/runs/{id}")

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
        return self._transport.pages(RunSummary, "/runs", query)

    def cancel(self, id: Id) -> RunView:
        """Ask for a run's end."""
        return self._transport.read(RunView, "POST", f"/runs/{id}/cancel")

    def pause(self, id: Id) -> RunView:
        """Ask a run to save what it has done and to give up its worker."""
        return self._transport.read(RunView, "POST", f"/runs/{id}/pause")

    def resume(self, id: Id, max_steps: int | None = None) -> RunView:
        """Go on with a paused or ended run from its newest checkpoint, to other steps where they are said."""
        body = {} if max_steps is None else {"max_steps": max_steps}
        return self._transport.read(RunView, "POST", f"/runs/{id}/resume", json=body)

    def save(self, id: Id) -> RunView:
        """Ask a running run for a checkpoint after its present step."""
        return self._transport.read(RunView, "POST", f"/runs/{id}/checkpoint")

    def clone(self, id: Id, overrides: Mapping[str, Any] | None = None) -> RunView:
        """Start a run with the spec of another, and what `overrides` says instead."""
        return self._transport.read(RunView, "POST", f"/runs/{id}/clone", json=dict(overrides or {}))

    def change_run(self, id: Id, **changes: Any) -> RunView:
        """Change a run's `name`, `notes`, `labels` or `priority`."""
        return self._transport.read(RunView, "PATCH", f"/runs/{id}", json=changes)

    def delete_run(self, id: Id) -> None:
        """Delete a paused or ended run with everything recorded of it."""
        self._transport.send("DELETE", f"/runs/{id}")

    def attempts(self, id: Id) -> Iterator[AttemptView]:
        """Every try at a run, newest first, fetched page by page."""
        return self._transport.pages(AttemptView, f"/runs/{id}/attempts", {})

    def events(self, id: Id, after: int = 0, *, every: float = 1.0, timeout: float | None = None) -> Iterator[Event]:
        """What happens to a run, from its beginning or after the event of id `after`; the last one is its RunEnd.

        Between the numbered RunEvents a RunProgress says where it stands, at most once in `every` seconds. An
        interrupted stream is taken up where it broke off. After `timeout` seconds the events end without a RunEnd.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        return events.follow(self._transport, f"/runs/{id}/events", (RunProgress, RunEnd), after, every, deadline)

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
        return self._transport.read(
            Curves, "GET", f"/runs/{id}/curves", _curve_query(metrics, since_step, max_points, smooth)
        )

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
        return self._transport.pages(RewardGroupView, f"/runs/{id}/rewards", query)

    def samples(self, id: Id, *, kind: str | None = None, step: int | None = None) -> Iterator[SampleView]:
        """A run's sample images, fetched page by page; `image(sample.image)` is the PNG."""
        return self._transport.pages(SampleView, f"/runs/{id}/samples", {"kind": kind, "step": step})

    def logs(self, id: Id, *, attempt: int | None = None, offset: int = 0) -> LogPart:
        """A part of what the run's process printed; ask again from its `next_offset`."""
        return self._transport.read(LogPart, "GET", f"/runs/{id}/logs", {"attempt": attempt, "offset": offset})

    def follow_logs(
        self, id: Id, *, attempt: int | None = None, follow: bool = True, every: float = 1.0
    ) -> Iterator[LogPart]:
        """What the run's process printed in the newest attempt, or the given one, from its first byte on.

        With `follow` also what it prints from now on, in later attempts too, until the run has ended; while there is
        nothing it is asked for `every` so many seconds.
        """
        offset = 0
        while True:
            ended = not follow or self.run(id).status in TERMINAL
            while True:
                part = self.logs(id, attempt=attempt, offset=offset)
                if part.text:
                    yield part
                attempt, offset = part.attempt, part.next_offset
                if offset >= part.size:
                    if part.next_attempt is None or not follow:
                        break
                    attempt, offset = part.next_attempt, 0
            if ended:
                return
            time.sleep(every)


def _curve_query(
    metrics: Sequence[str], since_step: int | None = None, max_points: int | None = None, smooth: float | None = None
) -> Query:
    return {"metrics": list(metrics), "since_step": since_step, "max_points": max_points, "smooth": smooth}
