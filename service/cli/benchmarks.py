"""`g2rpo benchmarks ...` and `g2rpo leaderboard`: what models are judged on, and how they did."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from rich.table import Column, Table

from service.cli.console import REFUSED, connect, console, errors
from service.cli.database import HERE, DataOption, opened
from service.cli.show import print_yaml
from service.local import EmbeddedError

if TYPE_CHECKING:
    from service.api.benchmarks.imports import Report
    from service.contracts.benchmarks.scores import Accuracy, Scores

app = typer.Typer(no_args_is_help=True, help="Benchmarks: prompts whose images a judge is asked about.")

Name = Annotated[str, typer.Argument(metavar="NAME", help="The benchmark's name, such as unigenbench-en.")]
_MOST_ROWS = 100
_SUFFIXES: dict[str, Literal["text/csv", "text/markdown", "image/png"]] = {
    ".csv": "text/csv",
    ".md": "text/markdown",
    ".png": "image/png",
}


@app.command("import")
def import_benchmarks(
    checkout: Annotated[
        Path,
        typer.Argument(metavar="PATH", exists=True, file_okay=False, help="A checkout of the official repository."),
    ],
    allow_bad_rows: Annotated[
        bool, typer.Option("--allow-bad-rows", help="Leave bad rows out, with a record, and import the rest.")
    ] = False,
    data: DataOption = HERE,
) -> None:
    """Import UniGenBench++ into the database: its prompts, the dimensions' definitions, the judge's templates.

    Nothing of the checkout is executed. Bad rows are told by their numbers, and nothing is imported then. Importing
    twice changes nothing; other content under a name replaces what the name means from then on. The database is the
    one that G2RPO_DATABASE_URL names, else that of the `g2rpo up` that runs on --data.
    """
    from service.api.benchmarks import imports, service

    report = imports.examine(checkout)
    _tell(report)
    found = report.benchmarks(allow_bad_rows)
    if not found:
        if not report.faults:
            errors.print("nothing was imported; --allow-bad-rows imports the rest", style="bold red", highlight=False)
        raise typer.Exit(REFUSED)
    with opened(data) as session:
        new = {benchmark.name: service.store(session, benchmark) for benchmark in found}
        session.commit()
    for name, is_new in new.items():
        console.print(f"{'imported' if is_new else 'unchanged:'} {name}", highlight=False)


@app.command("list")
def list_benchmarks() -> None:
    """List benchmarks."""
    table = Table(
        Column("benchmark", no_wrap=True), "title", "prompts", "test points", "file", "sha256", "imported", box=None
    )
    with connect() as client:
        for one in client.benchmarks():
            official = "official" if one.pinned else "not the official file"
            table.add_row(
                *(one.name, one.title, str(one.prompt_count), str(one.point_count)),
                *(f"{one.file} ({official})", one.data_sha256[:12], f"{one.imported_at.astimezone():%Y-%m-%d %H:%M}"),
            )
    console.print(table)


@app.command()
def show(
    name: Name,
    dimension: Annotated[
        list[str] | None, typer.Option(help="Only prompts with a test point of this dimension; repeatable.")
    ] = None,
    limit: Annotated[int, typer.Option(min=1, max=200, help="At most so many prompts.")] = 5,
) -> None:
    """Print a benchmark as YAML, with the judge's words and some prompts."""
    with connect() as client:
        print_yaml(client.benchmark(name, dimension or (), limit=limit).model_dump(mode="json"))


@app.command()
def rescore(
    file: Annotated[
        Path, typer.Argument(metavar="FILE", exists=True, dir_okay=False, help="A result: .csv, .jsonl or .json.")
    ],
    benchmark: Annotated[str, typer.Option(help="The benchmark that it is a result on.")],
    out: Annotated[Path | None, typer.Option(help="Write everything, every test point too, as JSON.")] = None,
    resamples: Annotated[int | None, typer.Option(min=0, help="Of the bootstrap; 0: no intervals.")] = None,
    seed: Annotated[int | None, typer.Option(min=0, help="Of the bootstrap.")] = None,
) -> None:
    """Score a result file of the official scripts: as they do, with intervals, and with what they drop counted."""
    with connect() as client:
        found = client.rescore(file, benchmark, points=out is not None, resamples=resamples, seed=seed)
    if out is not None:
        out.write_text(found.model_dump_json(indent=2) + "\n", encoding="utf-8")
    print_scores(found.scores)
    if out is not None:
        console.print(f"wrote {out}", highlight=False, soft_wrap=True)


def leaderboard(
    benchmark: Annotated[str | None, typer.Option(help="Default: unigenbench-en.")] = None,
    out: Annotated[Path | None, typer.Option(help="Write it to a .md, .csv or .png file instead.")] = None,
) -> None:
    """Show how models rank on a benchmark; rows that others published are among them."""
    if out is None:
        with connect() as client:
            typer.echo(client.leaderboard_as("text/markdown", benchmark).decode(), nl=False)
        return
    if out.suffix not in _SUFFIXES:
        raise typer.BadParameter(f"{out} must end in {', '.join(_SUFFIXES)}")
    with connect() as client:
        out.write_bytes(client.leaderboard_as(_SUFFIXES[out.suffix], benchmark))
    console.print(f"wrote {out}", highlight=False, soft_wrap=True)


def _tell(report: "Report") -> None:
    for one in report.files:
        read = one.reading
        points = sum(len(prompt.points) for prompt in read.prompts)
        kind = "the official file" if read.pinned else "not the official file of this version"
        _line(f"{one.file.path}: {len(read.prompts)} prompts, {points} test points, {kind}, sha256 {read.sha256}")
        for repair in read.repairs:
            _line(f"  mended row {repair.row} (index {repair.index}): {repair.description}")
        for problem in read.problems[:_MOST_ROWS]:
            _line(f"  {problem}")
        if len(read.problems) > _MOST_ROWS:
            _line(f"  and {len(read.problems) - _MOST_ROWS} more bad rows")
    if report.faults:
        raise EmbeddedError("\n".join(report.faults))


def _line(text: str) -> None:
    errors.print(text, markup=False, highlight=False, soft_wrap=True)


def print_scores(scores: "Scores") -> None:
    table = Table("dimension", "accuracy", "95% interval", "met", "of", "failed", box=None)
    overall = "" if scores.overall is None else f"{scores.overall:.2%}"
    table.add_row("overall", overall, _interval(scores.overall_interval95), "", "", "", style="bold")
    for name, one in (("all test points", scores.micro), *scores.primary.items()):
        table.add_row(*_cells(name, one))
        parts = [(sub, part) for sub, part in scores.sub.items() if sub.startswith(f"{name} - ")]
        for sub, part in parts:
            table.add_row(*_cells("  " + sub.removeprefix(f"{name} - "), part), style="dim")
    console.print(table)
    if scores.images is not None:
        _said(
            f"{scores.images} images of {scores.prompts} prompts; {scores.failed_answers} answers failed "
            f"{scores.failures or ''}; {scores.missing_images} images are missing; {scores.recovered} answers were "
            "recovered from the judge's words"
        )


def _said(text: str) -> None:
    console.print(text, markup=False, highlight=False, soft_wrap=True)


def _cells(name: str, one: "Accuracy") -> tuple[str, ...]:
    accuracy = "" if one.accuracy is None else f"{one.accuracy:.2%}"
    failed = "" if one.failures is None else str(one.failures)
    return name, accuracy, _interval(one.interval95), str(one.correct), str(one.total), failed


def _interval(interval: tuple[float, float] | None) -> str:
    return "" if interval is None else f"{interval[0]:.2%} to {interval[1]:.2%}"
