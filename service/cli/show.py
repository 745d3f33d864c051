"""How runs, plans and the catalog are printed."""

from typing import Any

import typer
import yaml
from rich.table import Table

from service.api.runs.schemas import RunView
from service.cli.console import FileOption, SettingsOption, connect, console, read_spec
from service.jobs.views import JobView


def print_run(run: RunView) -> None:
    """A run on a few lines."""
    done = f", step {run.progress.step} of {run.progress.max_steps}" if run.progress else ""
    name = f" ({run.name})" if run.name else ""
    console.print(f"run {run.id}{name}: {run.status}{done}, attempt {run.attempt}", highlight=False, markup=False)
    if run.queue_position is not None:
        console.print(f"place {run.queue_position} in the queue", highlight=False)
    if run.heldout:
        table = Table("held out", "before", "after", "difference", "95% interval", "pairs", box=None)
        for reward, one in run.heldout.items():
            low, high = one.interval95
            numbers = (f"{one.before:.4f}", f"{one.after:.4f}", f"{one.difference:+.4f}", f"{low:+.4f} to {high:+.4f}")
            table.add_row(reward, *numbers, str(one.pairs))
        console.print(table)
    elif run.metrics:
        table = Table("metric", "step", "value", box=None)
        for metric, latest in run.metrics.items():
            table.add_row(metric, str(latest.step), "" if latest.value is None else f"{latest.value:.5g}")
        console.print(table)
    print_error(run)


def print_error(job: JobView) -> None:
    """Why a job failed, and the end of its log."""
    if job.error is None:
        return
    console.print(f"{job.error.code}: {job.error.detail}", style="red", highlight=False, markup=False)
    if job.error.hint:
        console.print(job.error.hint, highlight=False, markup=False)
    if job.error.log_tail:
        console.print(job.error.log_tail[-1500:], style="dim", highlight=False, markup=False)


def print_yaml(value: Any) -> None:
    """A nested value, for reading and for `--file`."""
    typer.echo(yaml.safe_dump(value, sort_keys=False, allow_unicode=True), nl=False)


def plan(file: FileOption = None, settings: SettingsOption = None) -> None:
    """Show what a run would cost: NFE, memory, time."""
    with connect() as client:
        made = client.plan(read_spec(file, settings or []))
    console.print(
        f"per prompt: {made.per_prompt.total} evaluations (anchor {made.per_prompt.anchor}, continuations "
        f"{made.per_prompt.continuations}); naive {made.naive_per_prompt.total}; saved {made.saved_share:.1%}\n"
        f"per step: {made.per_step_nfe} evaluations, {made.per_step_updates} forward and backward passes\n"
        f"whole run: {made.total_nfe} evaluations, {made.heldout_nfe} of them held out",
        highlight=False,
    )
    if made.memory is not None:
        console.print(f"memory of a process: about {made.memory.total / 1e9:.1f} GB, while in {made.memory.peak}")
        table = Table("phase", "GB", "of which", box=None)
        for one in made.memory.phases:
            parts = ", ".join(f"{name} {size / 1e9:.1f}" for name, size in one.parts.items() if size >= 5e7)
            table.add_row(one.phase, f"{one.total / 1e9:.1f}", parts)
        console.print(table, highlight=False)
    if made.seconds is not None:
        console.print(f"time: about {made.seconds:.0f} s ({made.seconds_basis})", highlight=False)
    for warning in made.warnings:
        console.print(f"warning: {warning}", style="yellow", highlight=False, markup=False)


def number(value: float | None) -> str:
    """A measured value in a table."""
    return "" if value is None else f"{value:.5g}"
