"""`g2rpo`: everything from a terminal. Exit status 1: a job failed, or `doctor` found something; 2: a refusal."""

from pathlib import Path
from typing import Annotated

import typer

from service.cli import (
    benchmarks,
    catalog,
    checkpoints,
    curves,
    doctor,
    evaluations,
    generate,
    judgements,
    keys,
    prompt_sets,
    runs,
    score,
    show,
)
from service.cli.console import Refusals, SettingsOption, errors, read_spec, refusing

app = typer.Typer(
    cls=Refusals,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Align flow text-to-image models with human preference by G²RPO. The service's address is G2RPO_URL, "
    "http://127.0.0.1:8000 if unset; its API key is G2RPO_API_KEY.",
)
app.add_typer(runs.app, name="runs")
app.add_typer(checkpoints.app, name="checkpoints")
app.add_typer(prompt_sets.app, name="prompt-sets")
app.add_typer(evaluations.app, name="evaluations")
for command in (judgements.answers, judgements.export, judgements.compare, judgements.gallery):
    evaluations.app.command()(command)
app.add_typer(benchmarks.app, name="benchmarks")
app.add_typer(keys.app, name="keys")
app.add_typer(catalog.app, name="catalog")
app.command("curves")(curves.curves)
app.command("generate")(generate.generate)
app.command("score")(score.score)
app.command("leaderboard")(benchmarks.leaderboard)
app.command("plan")(show.plan)
app.command("doctor")(doctor.doctor)

DataOption = Annotated[
    Path, typer.Option("--data", envvar="G2RPO_DATA_DIR", help="Directory of database, queue, images, weights, logs.")
]


@app.command()
def up(
    port: Annotated[int, typer.Option(min=0, max=65535, envvar="G2RPO_PORT", help="TCP port; 0: a free one.")] = 8000,
    data: DataOption = Path(".g2rpo"),
) -> None:
    """Run the whole service on this machine until Ctrl-C: PostgreSQL, Valkey, API, workers.

    What was begun goes on with the next `up` on the same data. G2RPO_DATABASE_URL and G2RPO_BROKER_URL name servers
    to use instead of our own.
    """
    from service.local.up import up as run

    with refusing():
        run(data, port, say=lambda line: errors.print(line, highlight=False, soft_wrap=True))


@app.command()
def demo(
    seed: Annotated[int, typer.Option(min=0, help="Seed of the run.")] = 42,
    out: Annotated[Path, typer.Option(help="Directory for curves.png, before_after.png and report.json.")] = Path(
        "demo"
    ),
    data: Annotated[Path | None, typer.Option(help="Directory of database and logs; default: OUT/.data.")] = None,
    settings: SettingsOption = None,
) -> None:
    """Align the bundled model while you watch, and draw the same images before and after."""
    from service.cli.demo import run

    spec = read_spec(None, ["preset=shapes", "name=demo", f"training.seed={seed}", *(settings or [])])
    with refusing():
        raise typer.Exit(run(spec, out, data or out / ".data"))
