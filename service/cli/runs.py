"""`g2rpo runs ...`: start, watch, list, show and cancel alignment runs."""

import sys
import time
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from service.cli.console import FileOption, SettingsOption, connect, console, read_spec
from service.cli.show import print_error, print_run, print_yaml
from service.cli.watch import watch
from service.contracts.status import TERMINAL, JobStatus

app = typer.Typer(no_args_is_help=True, help="Alignment runs.")

RunId = Annotated[str, typer.Argument(metavar="RUN", help="The run's id.")]
FAILED = 1


@app.command()
def create(
    file: FileOption = None,
    settings: SettingsOption = None,
    watching: Annotated[bool, typer.Option("--watch", help="Follow the run to its end.")] = False,
) -> None:
    """Start a run. Without a file it is the preset `shapes`."""
    with connect() as client:
        run = client.create_run(read_spec(file, settings or []))
        if not watching:
            console.print(str(run.id), highlight=False)
            return
        console.print(f"run {run.id}", highlight=False)
        run = watch(client, run)
        print_run(run)
    raise typer.Exit(0 if run.status is JobStatus.SUCCEEDED else FAILED)


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
            created = f"{run.created_at.astimezone():%Y-%m-%d %H:%M:%S}"
            table.add_row(str(run.id), run.name, run.status, step, run.model, created)
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
        run = client.cancel(run_id)
        console.print(f"run {run.id} is {run.status}", highlight=False)
        print_error(run)


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
                table.add_row(curve.name, _number(curve.values[0]), _number(curve.values[-1]), str(len(curve.steps)))
        console.print(table)


@app.command()
def logs(
    run_id: RunId,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on until the run has ended.")] = False,
) -> None:
    """Print what a run's process printed."""
    with connect() as client:
        attempt, offset = None, 0
        while True:
            ended = client.run(run_id).status in TERMINAL
            part = client.logs(run_id, attempt=attempt, offset=offset)
            sys.stdout.write(part.text)
            sys.stdout.flush()
            attempt, offset = part.attempt, part.next_offset
            if part.next_offset >= part.size:
                if ended or not follow:
                    return
                time.sleep(1)


@app.command()
def spec(run_id: RunId) -> None:
    """Print a run's resolved spec as YAML."""
    with connect() as client:
        print_yaml(client.run(run_id).spec)


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.5g}"
