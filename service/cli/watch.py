"""Following a run in a terminal: a bar with steps, time left and the newest rewards."""

import time

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from service.cli.console import console
from service.client import Client
from service.runs.schemas import RunView

POLL_SECONDS = 1.0
_LINE_SECONDS = 10.0


def watch(client: Client, run: RunView, on: Console = console, every: float = POLL_SECONDS) -> RunView:
    """Show the run until it has ended, asking `every` so many seconds, and return it then.

    Without a terminal it is a line every ten seconds.
    """
    if not on.is_terminal:
        return client.wait_for_run(run.id, every=every, seen=_Lines(on))
    columns = (
        TextColumn("{task.fields[status]:<10}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[left]}"),
        TextColumn("{task.fields[rewards]}"),
    )
    # Drawn when there is news: a bar that redraws itself takes time from the run on the same cores.
    with Progress(*columns, console=on, auto_refresh=False) as progress:
        task = progress.add_task("", total=None, status=run.status, left="", rewards="")

        def seen(run: RunView) -> None:
            step, total = _steps(run)
            left = _left(run)
            progress.update(task, completed=step, total=total, status=run.status, left=left, rewards=rewards(run))
            progress.refresh()

        return client.wait_for_run(run.id, every=every, seen=seen)


def rewards(run: RunView) -> str:
    """The newest held-out rewards; those trained on where nothing is evaluated."""
    for prefix in ("heldout/", "reward/"):
        values = {name.removeprefix(prefix): one.value for name, one in run.metrics.items() if name.startswith(prefix)}
        if values:
            shown = [f"{name} {value:.4f}" for name, value in values.items() if value is not None]
            return ("held-out " if prefix == "heldout/" else "") + "  ".join(shown)
    return ""


class _Lines:
    def __init__(self, on: Console) -> None:
        self._on, self._next, self._last = on, 0.0, ""

    def __call__(self, run: RunView) -> None:
        step, total = _steps(run)
        line = f"{run.status} {step}/{total or '?'}  {_left(run)}  {rewards(run)}"
        if time.monotonic() >= self._next and line != self._last:
            self._on.print(line, highlight=False, soft_wrap=True)
            self._last, self._next = line, time.monotonic() + _LINE_SECONDS


def _steps(run: RunView) -> tuple[int, int | None]:
    return (run.progress.step, run.progress.max_steps) if run.progress else (0, None)


def _left(run: RunView) -> str:
    if run.queue_position is not None:
        return f"place {run.queue_position} in the queue"
    if run.progress is None:
        return "loading"
    if run.eta_seconds is None:
        return run.progress.phase
    minutes, seconds = divmod(round(run.eta_seconds), 60)
    return f"{minutes}:{seconds:02d} left"
