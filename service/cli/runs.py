"""`g2rpo runs ...`: alignment runs, from the start to the deletion."""

import json
import sys
from datetime import datetime
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from service.api.runs.schemas import RunView
from service.cli.console import FAILED, FileOption, SettingsOption, connect, console, errors, read_spec
from service.cli.show import number, print_error, print_run, print_yaml
from service.cli.watch import watch
from service.client import Client, RunEvent
from service.contracts.status import JobStatus

app = typer.Typer(no_args_is_help=True, help="Alignment runs.")

RunId = Annotated[str, typer.Argument(metavar="RUN", help="The run's id.")]


@app.command()
def create(
    file: FileOption = None,
    settings: SettingsOption = None,
    watching: Annotated[bool, typer.Option("--watch", help="Follow the run to its end.")] = False,
) -> None:
    """Start a run. Without a file it is the preset `shapes`."""
    with connect() as client:
        _started(client, client.create_run(read_spec(file, settings or [])), watching)


@app.command("list")
def list_runs(
    status: Annotated[list[JobStatus] | None, typer.Option(help="Only in this state; repeatable.")] = None,
    label: Annotated[list[str] | None, typer.Option(metavar="KEY:VALUE", help="Only with this label.")] = None,
    limit: Annotated[int, typer.Option(min=1, help="At most so many.")] = 20,
) -> None:
    """List runs, newest first."""
    table = Table("run", "name", "status", "step", "model", "created", box=None)
    with connect() as client:
        for _, run in zip(range(limit), client.runs(status=status or [], label=label or []), strict=False):
            step = f"{run.progress.step}/{run.progress.max_steps}" if run.progress else ""
            table.add_row(str(run.id), run.name, run.status, step, run.model, _time(run.created_at))
    console.print(table)


@app.command()
def show(
    run_id: RunId, watching: Annotated[bool, typer.Option("--watch", help="Follow it to its end.")] = False
) -> None:
    """Show a run: state, progress, newest metrics, held-out rewards, checkpoints."""
    with connect() as client:
        run = client.run(run_id)
        if watching:
            run = watch(client, run)
        print_run(run)
        for checkpoint in client.checkpoints(run_id):
            console.print(
                f"checkpoint {checkpoint.id}  step {checkpoint.step}  {checkpoint.size} bytes", highlight=False
            )


@app.command()
def cancel(run_id: RunId) -> None:
    """Ask for a run's end."""
    with connect() as client:
        _print_state(client.cancel(run_id))


@app.command()
def pause(run_id: RunId) -> None:
    """Have a run saved and its device freed; `resume` goes on with it."""
    with connect() as client:
        _print_state(client.pause(run_id))


@app.command()
def resume(
    run_id: RunId,
    max_steps: Annotated[int | None, typer.Option(min=1, help="Optimizer steps to do in all, instead.")] = None,
    watching: Annotated[bool, typer.Option("--watch", help="Follow the run to its end.")] = False,
) -> None:
    """Go on with a paused or ended run from its newest checkpoint."""
    with connect() as client:
        _started(client, client.resume(run_id, max_steps), watching)


@app.command()
def checkpoint(run_id: RunId) -> None:
    """Ask a running run for a checkpoint after its current step."""
    with connect() as client:
        _print_state(client.save(run_id))


@app.command()
def clone(
    run_id: RunId,
    file: FileOption = None,
    settings: SettingsOption = None,
    watching: Annotated[bool, typer.Option("--watch", help="Follow the run to its end.")] = False,
) -> None:
    """Start a run with the spec of another, and what the file and --set say instead."""
    with connect() as client:
        _started(client, client.clone(run_id, read_spec(file, settings or [])), watching)


@app.command()
def edit(
    run_id: RunId,
    name: Annotated[str | None, typer.Option(help="A name for people.")] = None,
    notes: Annotated[str | None, typer.Option(help="Whatever is worth remembering.")] = None,
    label: Annotated[
        list[str] | None, typer.Option(metavar="KEY:VALUE", help="A label; all given ones replace those there.")
    ] = None,
    priority: Annotated[int | None, typer.Option(help="Smaller is taken earlier.")] = None,
) -> None:
    """Change what a run is called, its notes, labels or priority."""
    labels = dict(_label(one) for one in label) if label else None
    changes = {"name": name, "notes": notes, "labels": labels, "priority": priority}
    said = {field: value for field, value in changes.items() if value is not None}
    if not said:
        raise typer.BadParameter("say what to change: --name, --notes, --label or --priority")
    with connect() as client:
        client.change_run(run_id, **said)
        console.print(f"changed {', '.join(said)} of run {run_id}", highlight=False)


@app.command()
def delete(
    run_id: RunId,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
) -> None:
    """Delete a paused or ended run with its curves, rewards, images, logs and checkpoints."""
    if not yes:
        typer.confirm(f"Delete run {run_id} and everything recorded of it?", abort=True)
    with connect() as client:
        client.delete_run(run_id)
        console.print(f"deleted run {run_id}", highlight=False)


@app.command()
def curves(
    run_id: RunId,
    metric: Annotated[list[str] | None, typer.Option(help="A name, or a beginning with *; repeatable.")] = None,
    out: Annotated[Path | None, typer.Option(help="Write a .csv, .png or .svg instead of printing.")] = None,
) -> None:
    """Print a run's newest metrics, or write its curves to a file."""
    with connect() as client:
        if out is not None:
            forms = {".csv": "text/csv", ".png": "image/png", ".svg": "image/svg+xml"}
            if out.suffix not in forms:
                raise typer.BadParameter(f"{out} must end in one of {', '.join(forms)}")
            out.write_bytes(client.curves_as(run_id, forms[out.suffix], metric or []))  # type: ignore[arg-type]
            console.print(f"wrote {out}", highlight=False)
            return
        table = Table("metric", "first", "last", "points", box=None)
        for curve in client.curves(run_id, metric or []).curves:
            if curve.steps:
                table.add_row(curve.name, number(curve.values[0]), number(curve.values[-1]), str(len(curve.steps)))
        console.print(table)


@app.command()
def logs(
    run_id: RunId,
    attempt: Annotated[int | None, typer.Option(min=1, help="Of this attempt; default: the newest.")] = None,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on, to later attempts too, to its end.")] = False,
) -> None:
    """Print what a run's process printed."""
    with connect() as client:
        shown = attempt
        for part in client.follow_logs(run_id, attempt=attempt, follow=follow):
            if shown is not None and part.attempt != shown:
                errors.print(f"attempt {part.attempt}", style="dim")
            shown = part.attempt
            sys.stdout.write(part.text)
            sys.stdout.flush()


@app.command()
def events(
    run_id: RunId,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on until the run has ended.")] = False,
    after: Annotated[int, typer.Option(min=0, help="Only those after the event of this id.")] = 0,
) -> None:
    """Print what happened to a run, a line for each event: id, time, attempt, type, data."""
    with connect() as client:
        for event in client.events(run_id, after):
            if isinstance(event, RunEvent):
                time = f"{event.time.astimezone():%Y-%m-%d %H:%M:%S}"
                typer.echo(f"{event.id}  {time}  {event.attempt}  {event.type}  {json.dumps(event.data)}")
            elif not follow:
                return  # where it stands comes when everything was told


@app.command()
def attempts(run_id: RunId) -> None:
    """List the tries at a run, newest first."""
    table = Table("attempt", "worker", "began", "ended", "how", "from step", "device", box=None)
    with connect() as client:
        for one in client.attempts(run_id):
            ended = _time(one.ended_at)
            how = "lost" if one.lost else one.outcome or ""
            device = str((one.provenance or {}).get("device", ""))
            table.add_row(str(one.number), one.worker, _time(one.started_at), ended, how, str(one.resumed_at), device)
    console.print(table)


@app.command()
def spec(run_id: RunId) -> None:
    """Print a run's resolved spec as YAML."""
    with connect() as client:
        print_yaml(client.run(run_id).spec)


def _started(client: Client, run: RunView, watching: bool) -> None:
    """Print a started run's id, or follow it to its end and exit by how it ended."""
    if not watching:
        console.print(str(run.id), highlight=False)
        return
    console.print(f"run {run.id}", highlight=False)
    run = watch(client, run)
    print_run(run)
    asked = run.status is JobStatus.PAUSED and run.error is None
    raise typer.Exit(0 if run.status is JobStatus.SUCCEEDED or asked else FAILED)


def _print_state(run: RunView) -> None:
    console.print(f"run {run.id} is {run.status}", highlight=False)
    print_error(run)


def _label(text: str) -> tuple[str, str]:
    key, colon, value = text.partition(":")
    if not colon:
        raise typer.BadParameter(f"{text!r} is no label; write KEY:VALUE")
    return key, value


def _time(moment: datetime | None) -> str:
    return f"{moment.astimezone():%Y-%m-%d %H:%M:%S}" if moment else ""
