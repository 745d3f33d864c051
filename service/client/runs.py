"""Client methods for runs, their curves, rewards, sample images and logs, and for comparing runs."""

import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any, Literal, TypedDict, Unpack

from service.api.curves.schemas import Axis, Band, Comparison, Curves
from service.api.events.schemas import LAST_ID, RunEnd, RunProgress
from service.api.logs.schemas import LogPart
from service.api.runs.reward_groups import RewardGroupView
from service.api.runs.samples import SampleView
from service.api.runs.schemas import AttemptView, RunSummary, RunView
from service.client.events import Event, Events, wait_for_end
from service.client.transport import Id
from service.contracts.status import TERMINAL


class ComparisonOptions(TypedDict, total=False):
    """The runs to compare, and how to compare them. The defaults are those of `GET /curves`."""

    runs: Sequence[Id]
    groups: Mapping[str, Sequence[Id]]
    """Maps the name of each group to the runs whose mean is shown."""
    x: Axis
    """The x-axis: `step`, `nfe` or `seconds`."""
    band: Band
    """The band around a group's mean: `ci95`, `std`, `minmax` or `none`."""
    since_step: int
    max_points: int
    smooth: float


class Runs(Events):
    """The routes under `/runs`, and the route `/curves`."""

    def create_run(self, spec: Mapping[str, Any]) -> RunView:
        """Start an alignment run. `spec` is the body of `POST /runs`."""
        return self._read(RunView, "POST", "/runs", json=dict(spec))

    def run(self, id: Id) -> RunView:
        """Return a run with its metrics."""
        return self._read(RunView, "GET", f"/runs/{id}")

    def runs(
        self,
        *,
        status: Collection[str] = (),
        model: str | None = None,
        algorithm: str | None = None,
        label: Sequence[str] = (),
    ) -> Iterator[RunSummary]:
        """Iterate over all matching runs, newest first."""
        query = {"status": list(status), "model": model, "algorithm": algorithm, "label": label}
        return self._pages(RunSummary, "/runs", query)

    def cancel(self, id: Id) -> RunView:
        """Cancel a run."""
        return self._read(RunView, "POST", f"/runs/{id}/cancel")

    def pause(self, id: Id) -> RunView:
        """Pause a run: save a checkpoint and release its worker."""
        return self._read(RunView, "POST", f"/runs/{id}/pause")

    def resume(self, id: Id, max_steps: int | None = None) -> RunView:
        """Resume a paused or finished run from its newest checkpoint, optionally with a new number of steps."""
        body = {} if max_steps is None else {"max_steps": max_steps}
        return self._read(RunView, "POST", f"/runs/{id}/resume", json=body)

    def save(self, id: Id) -> RunView:
        """Save a checkpoint of an active run after its current step."""
        return self._read(RunView, "POST", f"/runs/{id}/checkpoint")

    def clone(self, id: Id, overrides: Mapping[str, Any] | None = None) -> RunView:
        """Start a run with the spec of another run and `overrides`."""
        return self._read(RunView, "POST", f"/runs/{id}/clone", json=dict(overrides or {}))

    def change_run(self, id: Id, **changes: Any) -> RunView:
        """Change the `name`, `notes`, `labels` or `priority` of a run."""
        return self._read(RunView, "PATCH", f"/runs/{id}", json=changes)

    def delete_run(self, id: Id) -> None:
        """Delete a paused or finished run and all its data."""
        self._send("DELETE", f"/runs/{id}")

    def attempts(self, id: Id) -> Iterator[AttemptView]:
        """Iterate over the attempts of a run, newest first."""
        return self._pages(AttemptView, f"/runs/{id}/attempts")

    def events(self, id: Id, after: int = 0, *, every: float = 1.0, timeout: float | None = None) -> Iterator[Event]:
        """Iterate over the events of a run that follow the event with id `after`, starting with past events.

        Besides the numbered RunEvents, the iterator yields a RunProgress with the current state, at most once every
        `every` seconds, and finally a RunEnd. An interrupted stream is resumed without loss. After `timeout` seconds,
        the iterator ends without a RunEnd.
        """
        return self._follow(f"/runs/{id}/events", (RunProgress, RunEnd), after, every, timeout)

    def wait_for_run(
        self,
        id: Id,
        timeout: float | None = None,
        *,
        until: Collection[str] = TERMINAL,
        every: float = 1.0,
        seen: Callable[[RunProgress], None] = lambda _: None,
    ) -> RunView:
        """Follow the events of a run until it ends or reaches a state in `until`, and return the run.

        Calls `seen` with each RunProgress, at most once every `every` seconds. Raises TimeoutError after `timeout`
        seconds.
        """
        wait_for_end(id, self.events(id, LAST_ID, every=every, timeout=timeout), until, seen, timeout)
        return self.run(id)

    def curves(
        self,
        id: Id,
        metrics: Sequence[str] = (),
        *,
        since_step: int | None = None,
        max_points: int | None = None,
        smooth: float | None = None,
    ) -> Curves:
        """Return metrics of a run over its steps. A metric name may end in `*` to match a prefix."""
        query = {"metrics": metrics, "since_step": since_step, "max_points": max_points, "smooth": smooth}
        return self._read(Curves, "GET", f"/runs/{id}/curves", query)

    def curves_as(
        self, id: Id, media_type: Literal["text/csv", "image/png", "image/svg+xml"], metrics: Sequence[str] = ()
    ) -> bytes:
        """Return metrics of a run as a table or figure."""
        return self._content(f"/runs/{id}/curves", media_type, {"metrics": metrics})

    def compare(self, metrics: Sequence[str], **options: Unpack[ComparisonOptions]) -> Comparison:
        """Compare metrics of runs, and means over groups of runs. A metric name may end in `*` to match a prefix."""
        return self._read(Comparison, "GET", "/curves", _comparison_query(metrics, options))

    def compare_figure(
        self,
        metrics: Sequence[str],
        form: Literal["png", "svg"] = "svg",
        *,
        width_mm: float | None = None,
        **options: Unpack[ComparisonOptions],
    ) -> bytes:
        """Return a comparison of runs as an SVG or a 200-dpi PNG. `width_mm` is its width in mm, 170 by default."""
        media_type = {"png": "image/png", "svg": "image/svg+xml"}[form]
        return self._content("/curves", media_type, {**_comparison_query(metrics, options), "width_mm": width_mm})

    def compare_table(self, metrics: Sequence[str], **options: Unpack[ComparisonOptions]) -> bytes:
        """Return a comparison of runs as CSV, with one line per point."""
        return self._content("/curves", "text/csv", _comparison_query(metrics, options))

    def rewards(
        self, id: Id, *, step: int | None = None, reward: str | None = None, granularity: int | None = None
    ) -> Iterator[RewardGroupView]:
        """Iterate over the matching reward groups of a run."""
        query = {"step": step, "reward": reward, "granularity": granularity}
        return self._pages(RewardGroupView, f"/runs/{id}/rewards", query)

    def samples(self, id: Id, *, kind: str | None = None, step: int | None = None) -> Iterator[SampleView]:
        """Iterate over the matching sample images of a run. `fetch_image(sample.image)` returns the PNG."""
        return self._pages(SampleView, f"/runs/{id}/samples", {"kind": kind, "step": step})

    def logs(self, id: Id, *, attempt: int | None = None, offset: int = 0) -> LogPart:
        """Return a part of the log of the run's process. The next part starts at `next_offset`."""
        return self._read(LogPart, "GET", f"/runs/{id}/logs", {"attempt": attempt, "offset": offset})

    def follow_logs(
        self, id: Id, *, attempt: int | None = None, follow: bool = True, every: float = 1.0
    ) -> Iterator[LogPart]:
        """Yield the log of the run's process from its beginning, for the given or the newest attempt.

        If `follow`, keep polling every `every` seconds, and yield new output and the logs of later attempts until the
        run has ended.
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


def _comparison_query(metrics: Sequence[str], options: ComparisonOptions) -> dict[str, Any]:
    groups = [f"{name}:{','.join(map(str, ids))}" for name, ids in options.get("groups", {}).items()]
    query = {name: value for name, value in options.items() if name not in ("runs", "groups")}
    return query | {"metric": metrics, "run": options.get("runs", ()), "group": groups}
