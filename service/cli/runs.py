"""`g2rpo runs ...` and `g2rpo plan`: plan, start, follow and delete alignment runs."""

import json
import sys
from itertools import islice
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from service.api.runs.schemas import RunSummary, RunView
from service.cli import console, ids, options
from service.cli.curves import check_metrics
from service.cli.watch import watch
from service.client import Client, RunEvent
from service.contracts.memory import PhaseMemory
from service.contracts.plan import duration
from service.contracts.status import JobStatus

app = typer.Typer(no_args_is_help=True, help="Manage alignment runs.")

RunId = Annotated[str, ids.argument("run", ids.run)]
_SMALL_BYTES = 5e7
"""Parts of a plan's memory that are smaller than this are not listed."""
_CURVE_TYPES: dict[str, Literal["text/csv", "image/png", "image/svg+xml"]] = {
    ".csv": "text/csv",
    ".png": "image/png",
    ".svg": "image/svg+xml",
}


@app.command()
def create(file: options.File = None, settings: options.Settings = None, watching: options.Watch = False) -> None:
    """Start a run. The default spec is the preset `shapes`."""
    with console.connect() as client:
        _follow(client, client.create_run(_read_spec(file, settings)), watching)


@app.command("list")
@console.with_formats
def list_runs(
    status: Annotated[list[JobStatus] | None, typer.Option(help="Only runs in this state; repeatable.")] = None,
    label: Annotated[
        list[str] | None, typer.Option(metavar="KEY:VALUE", help="Only runs with this label; repeatable.")
    ] = None,
    limit: options.Limit = 20,
) -> None:
    """List runs, newest first."""
    with console.connect() as client:
        runs = client.runs(status=status or (), label=label or ())
        console.print_items(islice(runs, limit), "id", "name", "status", "model", "created_at", step=_step)


@app.command()
@console.with_formats
def show(run_id: RunId, watching: options.Watch = False) -> None:
    """Show a run: state, progress, latest metrics, held-out rewards and checkpoints."""
    with console.connect() as client:
        run = client.run(run_id)
        run = _watch(client, run) if watching else run
        if console.emit(run):
            return
        _print_run(run)
        for checkpoint in client.checkpoints(run_id):
            console.print_line(f"checkpoint {checkpoint.id}  step {checkpoint.step}  {checkpoint.size} bytes")


@app.command("watch")
def watch_run(run_id: RunId) -> None:
    """Follow a run until it ends or pauses."""
    with console.connect() as client:
        _follow(client, client.run(run_id), watching=True)


@app.command()
def cancel(run_id: RunId) -> None:
    """Cancel a run."""
    with console.connect() as client:
        _print_state(client.cancel(run_id))


@app.command()
def pause(run_id: RunId) -> None:
    """Pause a run: save a checkpoint and release its GPU."""
    with console.connect() as client:
        _print_state(client.pause(run_id))


@app.command()
def resume(
    run_id: RunId,
    max_steps: Annotated[int | None, typer.Option(min=1, help="New total number of optimizer steps.")] = None,
    watching: options.Watch = False,
) -> None:
    """Resume a paused or finished run from its newest checkpoint."""
    with console.connect() as client:
        _follow(client, client.resume(run_id, max_steps), watching)


@app.command()
def checkpoint(run_id: RunId) -> None:
    """Save a checkpoint of an active run after its current step."""
    with console.connect() as client:
        _print_state(client.save(run_id))


@app.command()
def clone(
    run_id: RunId, file: options.File = None, settings: options.Settings = None, watching: options.Watch = False
) -> None:
    """Start a run with the spec of another run and the given overrides."""
    with console.connect() as client:
        _follow(client, client.clone(run_id, _read_spec(file, settings)), watching)


@app.command()
def edit(
    run_id: RunId,
    name: Annotated[str | None, typer.Option(help="New name.")] = None,
    notes: Annotated[str | None, typer.Option(help="New notes.")] = None,
    label: Annotated[
        list[str] | None, typer.Option(metavar="KEY:VALUE", help="New label, in place of all labels; repeatable.")
    ] = None,
    priority: Annotated[int | None, typer.Option(help="New priority; smaller values run first.")] = None,
) -> None:
    """Change the name, notes, labels or priority of a run."""
    labels = dict(console.split_pair(text, ":", "KEY:VALUE") for text in label) if label else None
    changes = console.drop_unset(name=name, notes=notes, labels=labels, priority=priority)
    if not changes:
        raise typer.BadParameter("Nothing to change; give --name, --notes, --label or --priority")
    with console.connect() as client:
        client.change_run(run_id, **changes)
    console.print_line(f"changed {', '.join(changes)} of run {run_id}")


@app.command()
def delete(run_id: RunId, yes: options.Yes = False) -> None:
    """Delete a paused or finished run with its curves, rewards, images, logs and checkpoints."""
    console.confirm(yes, f"Delete run {run_id} and all its data?")
    with console.connect() as client:
        client.delete_run(run_id)
    console.print_line(f"deleted run {run_id}")


@app.command()
@console.with_formats
def curves(
    run_id: RunId,
    metric: Annotated[list[str] | None, typer.Option(help="Metric, or a prefix ending in *; repeatable.")] = None,
    out: Annotated[Path | None, typer.Option(help="Write a .csv, .png or .svg file instead of printing.")] = None,
) -> None:
    """Print the first and last values of a run's metrics, or write its curves to a file."""
    with console.connect() as client:
        check_metrics(client, [run_id], metric or ())
        if out is not None:
            console.write_file(out, client.curves_as(run_id, console.media_type(out, _CURVE_TYPES), metric or ()))
            return
        found = client.curves(run_id, metric or ()).curves
    if console.emit(found, [curve.name for curve in found]):
        return
    rows = [(curve.name, curve.values[0], curve.values[-1], len(curve.steps)) for curve in found if curve.steps]
    console.print_table(("metric", "first", "last", "points"), rows)


@app.command()
def logs(
    run_id: RunId,
    attempt: Annotated[int | None, typer.Option(min=1, help="Attempt number; default: the newest.")] = None,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Follow the log until the run ends.")] = False,
) -> None:
    """Print the log of a run's training process."""
    with console.connect() as client:
        shown = attempt
        for part in client.follow_logs(run_id, attempt=attempt, follow=follow):
            if shown is not None and part.attempt != shown:
                console.print_line(f"attempt {part.attempt}", "dim", console.stderr)
            shown = part.attempt
            sys.stdout.write(part.text)
            sys.stdout.flush()


@app.command()
def events(
    run_id: RunId,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Follow the events until the run ends.")] = False,
    after: Annotated[int, typer.Option(min=0, help="Only events after the event with this id.")] = 0,
) -> None:
    """Print the events of a run, one per line, with id, time, attempt, type and data."""
    with console.connect() as client:
        for event in client.events(run_id, after):
            if isinstance(event, RunEvent):
                time = f"{event.time.astimezone():%Y-%m-%d %H:%M:%S}"
                typer.echo(f"{event.id}  {time}  {event.attempt}  {event.type}  {json.dumps(event.data)}")
            elif not follow:
                return  # the first progress message comes after all past events


@app.command()
@console.with_formats
def attempts(run_id: RunId) -> None:
    """List the attempts of a run, newest first."""
    with console.connect() as client:
        console.print_items(
            client.attempts(run_id),
            *("number", "worker", "started_at", "ended_at", "resumed_at"),
            outcome=lambda attempt: "lost" if attempt.lost else attempt.outcome,
            device=lambda attempt: (attempt.provenance or {}).get("device"),
        )


@app.command()
def spec(run_id: RunId) -> None:
    """Print the resolved spec of a run as YAML."""
    with console.connect() as client:
        console.print_yaml(client.run(run_id).spec)


@console.with_formats
def plan(file: options.File = None, settings: options.Settings = None) -> None:
    """Show the cost of a run before starting it: NFE (network evaluations), memory and time."""
    with console.connect() as client:
        made = client.plan(_read_spec(file, settings))
    if console.emit(made):
        return
    console.print_line(
        f"per prompt: {made.per_prompt.total} NFE (anchor {made.per_prompt.anchor}, continuations "
        f"{made.per_prompt.continuations}); naive {made.naive_per_prompt.total}; saved {made.saved_share:.1%}\n"
        f"per step: {made.per_step_nfe} NFE, {made.per_step_updates} forward and backward passes\n"
        f"whole run: {made.total_nfe} NFE, {made.heldout_nfe} of them held-out"
    )
    if made.memory is not None:
        console.print_line(
            f"memory per process: about {made.memory.total / 1e9:.1f} GB, at its peak in {made.memory.peak}"
        )
        console.print_items(
            made.memory.phases, "phase", GB=lambda phase: f"{phase.total / 1e9:.1f}", parts=_memory_parts
        )
    if made.seconds is not None:
        console.print_line(f"time: about {duration(made.seconds)} ({made.seconds_basis})")
    console.print_warnings(made.warnings)


def _read_spec(file: Path | None, settings: list[str] | None) -> dict[str, Any]:
    spec = console.read_spec(file, settings)
    if isinstance(spec.get("start_from"), str):
        spec["start_from"] = ids.checkpoint(spec["start_from"])
    return spec


def _follow(client: Client, run: RunView, watching: bool) -> None:
    """Print the id of a started run. If `watching`, follow the run and exit with a status that reflects its outcome."""
    if not watching:
        console.print_line(str(run.id))
        return
    console.print_line(f"run {run.id}")
    run = _watch(client, run)
    _print_run(run)
    paused_on_request = run.status is JobStatus.PAUSED and run.error is None
    raise typer.Exit(0 if run.status is JobStatus.SUCCEEDED or paused_on_request else console.FAILED)


def _watch(client: Client, run: RunView) -> RunView:
    return watch(client, run, again=f"g2rpo runs watch {run.id}")


def _print_run(run: RunView) -> None:
    name = f" ({run.name})" if run.name else ""
    step = f", step {run.progress.step} of {run.progress.max_steps}" if run.progress else ""
    console.print_line(f"run {run.id}{name}: {run.status}{step}, attempt {run.attempt}")
    if run.queue_position is not None:
        console.print_line(f"queue position {run.queue_position}")
    if run.heldout:
        console.print_heldout({reward: change.model_dump() for reward, change in run.heldout.items()})
    elif run.metrics:
        console.print_table(
            ("metric", "step", "value"), [(name, latest.step, latest.value) for name, latest in run.metrics.items()]
        )
    console.print_error(run)


def _step(run: RunSummary) -> str:
    return f"{run.progress.step}/{run.progress.max_steps}" if run.progress else ""


def _memory_parts(phase: PhaseMemory) -> str:
    return ", ".join(f"{name} {size / 1e9:.1f}" for name, size in phase.parts.items() if size >= _SMALL_BYTES)


def _print_state(run: RunView) -> None:
    console.print_line(f"run {run.id} is {run.status}")
    console.print_error(run)
