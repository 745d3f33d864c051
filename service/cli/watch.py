"""Following a run in a terminal: a bar with steps, time left and the newest rewards."""

import time
from collections.abc import Callable, Mapping

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from service.api.events.schemas import EvaluationProgress
from service.api.runs.schemas import LatestMetric, RunView
from service.cli.console import console
from service.client import Client, RunProgress
from service.contracts.status import RESTING

REDRAW_SECONDS = 1.0
_LINE_SECONDS = 10.0


def watch(client: Client, run: RunView, on: Console = console, every: float = REDRAW_SECONDS) -> RunView:
    """Show the run until it has ended or is paused, and return it then. It is drawn once in `every` seconds at most.

    Without a terminal it is a line every ten seconds.
    """
    if not on.is_terminal:
        return client.wait_for_run(run.id, until=RESTING, every=every, seen=_Lines(on))
    columns = (
        TextColumn("{task.fields[status]:<10}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[left]}"),
        TextColumn("{task.fields[rewards]}"),
    )
    # Drawn when there is news: a bar that redraws itself takes time from the run on the same cores.
    with Progress(*columns, console=on, auto_refresh=False) as progress:
        return client.wait_for_run(run.id, until=RESTING, every=every, seen=_bar(progress, run))


def rewards(metrics: Mapping[str, LatestMetric]) -> str:
    """The newest held-out rewards; those trained on where nothing is evaluated."""
    for prefix in ("heldout/", "reward/"):
        values = {name.removeprefix(prefix): one.value for name, one in metrics.items() if name.startswith(prefix)}
        if values:
            shown = [f"{name} {value:.4f}" for name, value in values.items() if value is not None]
            return ("held-out " if prefix == "heldout/" else "") + "  ".join(shown)
    return ""


def _bar(progress: Progress, run: RunView) -> Callable[[RunProgress], None]:
    task = progress.add_task("", total=None, status=run.status, left="", rewards="")
    metrics: dict[str, LatestMetric] = {}

    def draw(now: RunProgress) -> None:
        metrics.update(now.metrics)
        step, total = _steps(now)
        left, newest = _left(now), rewards(metrics)
        progress.update(task, completed=step, total=total, status=now.status, left=left, rewards=newest)
        progress.refresh()

    return draw


class _Lines:
    def __init__(self, on: Console) -> None:
        self._print = printing(on)
        self._metrics: dict[str, LatestMetric] = {}

    def __call__(self, now: RunProgress) -> None:
        self._metrics.update(now.metrics)
        self._print(f"{line(now)}  {rewards(self._metrics)}")


def line(now: RunProgress | EvaluationProgress) -> str:
    """Where a job stands, in a line."""
    step, total = _steps(now)
    return f"{now.status} {step}/{total or '?'}  {_left(now)}"


def printing(on: Console) -> Callable[[str], None]:
    """Prints a line that is not the last one, every ten seconds at most."""
    last, following = "", 0.0

    def tell(text: str) -> None:
        nonlocal last, following
        if time.monotonic() >= following and text != last:
            on.print(text, highlight=False, soft_wrap=True)
            last, following = text, time.monotonic() + _LINE_SECONDS

    return tell


def _steps(now: RunProgress | EvaluationProgress) -> tuple[int, int | None]:
    return (now.progress.step, now.progress.max_steps) if now.progress else (0, None)


def _left(now: RunProgress | EvaluationProgress) -> str:
    if now.queue_position is not None:
        return f"place {now.queue_position} in the queue"
    if now.progress is None:
        return "loading"
    if now.eta_seconds is None:
        return now.progress.phase
    minutes, seconds = divmod(round(now.eta_seconds), 60)
    return f"{minutes}:{seconds:02d} left"
