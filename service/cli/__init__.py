"""The command line `g2rpo`. Exit status 1 means that a job or check failed, 2 that a request was rejected."""

import json
from pathlib import Path
from typing import Annotated

import typer

from service.cli import (
    benchmarks,
    catalog,
    checkpoints,
    console,
    curves,
    evaluations,
    images,
    keys,
    options,
    prompt_sets,
    runs,
)

app = typer.Typer(
    cls=console.ErrorReportingGroup,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich" if console.stdout.is_terminal and console.stderr.is_terminal else None,  # no boxes in pipes
    help="Align flow text-to-image models with human preference by G²RPO. G2RPO_URL is the address of the service, "
    "http://127.0.0.1:8000 by default; G2RPO_API_KEY is its API key.",
)
app.add_typer(runs.app, name="runs")
app.add_typer(checkpoints.app, name="checkpoints")
app.add_typer(prompt_sets.app, name="prompt-sets")
app.add_typer(evaluations.app, name="evaluations")
app.add_typer(benchmarks.app, name="benchmarks")
app.add_typer(keys.app, name="keys")
app.add_typer(catalog.app, name="catalog")
for command in (curves.curves, images.generate, images.score, benchmarks.leaderboard, runs.plan):
    app.command()(command)


@app.callback()
def main(debug: Annotated[bool, typer.Option("--debug", help="Print the traceback of an error.")] = False) -> None:
    """Read the options that precede the command; `ErrorReportingGroup` uses them."""


@app.command()
def up(port: options.Port = 8000, data: options.Data = options.DATA_DIR) -> None:
    """Run the whole service on this machine until Ctrl-C: PostgreSQL, Valkey, API, workers.

    The next `up` on the same data continues unfinished jobs. Set G2RPO_DATABASE_URL and G2RPO_BROKER_URL to use other
    servers instead of the embedded servers.
    """
    from service.local.up import up as run  # imported here because Alembic, Celery and psutil are slow to import

    run(data, port, report=lambda line: console.print_line(line, to=console.stderr))


@app.command()
def demo(
    seed: Annotated[int, typer.Option(min=0, help="Training seed.")] = 42,
    out: Annotated[Path, typer.Option(help="Directory for curves.png, before_after.png and report.json.")] = Path(
        "demo"
    ),
    data: Annotated[Path | None, typer.Option(help="Directory for the database and logs; default: OUT/.data.")] = None,
    settings: options.Settings = None,
) -> None:
    """Align the bundled model, and compare images from the model before and after alignment."""
    from service.cli.demo import run

    spec = console.read_spec(None, ["preset=shapes", "name=demo", f"training.seed={seed}", *(settings or [])])
    raise typer.Exit(run(spec, out, data or out / ".data"))


@app.command()
def doctor(
    data: options.Data = options.DATA_DIR,
    port: options.Port = 8000,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Check everything the service needs and show how to fix problems. The exit status is 1 if a check failed."""
    from service.local.doctor.examination import examine

    found = []
    for check in examine(data, port):
        found.append(check)
        if as_json:
            continue
        mark, style = ("✗", "bold red") if not check.ok else ("!", "bold yellow") if check.hint else ("✓", "green")
        console.stdout.print(mark, style=style, end=" ")
        console.print_line(f"{check.name}: {check.detail}" + (f"\n  → {check.hint}" if check.hint else ""))
    ok = all(check.ok for check in found)
    if as_json:
        print(json.dumps({"ok": ok, "checks": [check.model_dump() for check in found]}, indent=2))
    raise typer.Exit(0 if ok else console.FAILED)
