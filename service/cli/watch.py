"""Follow a job in a terminal with a progress bar showing the steps, the time left and the latest rewards."""

import time
from collections.abc import Mapping
from typing import Self

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from service.api.events.schemas import EvaluationProgress
from service.api.runs.schemas import LatestMetric, RunView
from service.cli import console
from service.client import Client, RunProgress
from service.contracts.plan import duration
from service.contracts.status import INACTIVE

REFRESH_SECONDS = 1.0
_LINE_SECONDS = 10.0
_INTERRUPTED = 130


class ProgressDisplay:
    """A callable that shows job progress: as a bar in a terminal, otherwise as a line at most every ten seconds.

    If Ctrl-C ends it, it prints the command `again`, which continues to follow the job, and exits with status 130.
    """

    def __init__(self, on: Console = console.stdout, again: str = "") -> None:
        self._console, self._again = on, again
        self._metrics: dict[str, LatestMetric] = {}
        self._last_line, self._next_line_at = "", 0.0
        columns = (
            TextColumn("{task.fields[status]:<10}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[left]}"),
            TextColumn("{task.fields[rewards]}"),
        )
        # No automatic refresh, because rendering would take processor time from a run on the same cores.
        self._bar = Progress(*columns, console=on, auto_refresh=False, disable=not on.is_terminal)
        self._task = self._bar.add_task("", total=None, status="", left="", rewards="")

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._bar.stop()
        if kind is KeyboardInterrupt and self._again:
            console.print_line(f"The job continues; watch it again with `{self._again}`", to=console.stderr)
            raise typer.Exit(_INTERRUPTED)

    def __call__(self, now: RunProgress | EvaluationProgress) -> None:
        if isinstance(now, RunProgress):
            self._metrics.update(now.metrics)
        step, total = (now.progress.step, now.progress.max_steps) if now.progress else (0, None)
        left, rewards = _time_left(now), newest_rewards(self._metrics)
        if self._console.is_terminal:
            self._bar.update(self._task, completed=step, total=total, status=now.status, left=left, rewards=rewards)
            self._bar.refresh()
            return
        line = f"{now.status} {step}/{total or '?'}  {left}  {rewards}".rstrip()
        if line != self._last_line and time.monotonic() >= self._next_line_at:
            self._console.print(line, highlight=False, soft_wrap=True)
            self._last_line, self._next_line_at = line, time.monotonic() + _LINE_SECONDS


def watch(
    client: Client, run: RunView, on: Console = console.stdout, every: float = REFRESH_SECONDS, again: str = ""
) -> RunView:
    """Show a run's progress until it ends or pauses, at most once every `every` seconds, and return the run."""
    with ProgressDisplay(on, again) as display:
        return client.wait_for_run(run.id, until=INACTIVE, every=every, seen=display)


def newest_rewards(metrics: Mapping[str, LatestMetric]) -> str:
    """Format the latest held-out rewards, or the training rewards if the run has no held-out evaluation."""
    for prefix, title in (("heldout/", "held-out "), ("reward/", "")):
        values = {
            name.removeprefix(prefix): metric.value for name, metric in metrics.items() if name.startswith(prefix)
        }
        if values:
            return title + "  ".join(f"{name} {value:.4f}" for name, value in values.items() if value is not None)
    return ""


def _time_left(now: RunProgress | EvaluationProgress) -> str:
    if now.queue_position is not None:
        return f"queue position {now.queue_position}"
    if now.progress is None:
        return "loading"
    if now.eta_seconds is None:
        return now.progress.phase
    return f"{duration(now.eta_seconds)} left"
