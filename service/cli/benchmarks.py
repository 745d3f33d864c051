"""`g2rpo benchmarks ...` and `g2rpo leaderboard`: manage benchmarks, rescore results and rank models."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from service.cli import console, options
from service.contracts.benchmarks.scores import Accuracy, Scores
from service.local import EmbeddedError

if TYPE_CHECKING:
    from service.api.benchmarks.imports import Report

app = typer.Typer(no_args_is_help=True, help="Manage benchmarks: prompts with test points for a judge.")

_MAX_PRINTED_ROWS = 100
_LEADERBOARD_TYPES: dict[str, Literal["text/csv", "text/markdown", "image/png"]] = {
    ".csv": "text/csv",
    ".md": "text/markdown",
    ".png": "image/png",
}


@app.command("import")
def import_benchmarks(
    checkout: Annotated[
        Path, typer.Argument(metavar="PATH", exists=True, file_okay=False, help="Checkout of the official repository.")
    ],
    allow_bad_rows: Annotated[
        bool, typer.Option("--allow-bad-rows", help="Skip and record bad rows instead of importing nothing.")
    ] = False,
    data: options.Data = options.DATA_DIR,
) -> None:
    """Import UniGenBench++ into the database: prompts, dimension definitions, judge templates.

    No code from the checkout is executed. Importing the same content again changes nothing; new content replaces the
    benchmark with the same name. The command uses the database at G2RPO_DATABASE_URL, otherwise the database of the
    `g2rpo up` that runs on --data.
    """
    from service.api.benchmarks import imports, service

    report = imports.examine(checkout)
    _print_report(report)
    found = report.benchmarks(allow_bad_rows)
    if not found:
        console.print_line("Nothing imported; --allow-bad-rows imports the other rows", "bold red", console.stderr)
        raise typer.Exit(console.REFUSED)
    with console.open_session(data) as session:
        new = {benchmark.name: service.store(session, benchmark) for benchmark in found}
        session.commit()
    for name, is_new in new.items():
        console.print_line(f"{'imported' if is_new else 'unchanged:'} {name}")


@app.command("list")
@console.with_formats
def list_benchmarks() -> None:
    """List benchmarks."""
    with console.connect() as client:
        console.print_items(
            client.benchmarks(),
            *("name", "title", "prompt_count", "point_count", "file"),
            official=lambda benchmark: "official" if benchmark.pinned else "not the official file",
            sha256=lambda benchmark: benchmark.data_sha256[:12],
            imported=lambda benchmark: benchmark.imported_at,
        )


@app.command()
@console.with_formats
def show(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Benchmark, such as unigenbench-en.")],
    dimension: options.Dimension = None,
    limit: Annotated[int, typer.Option(min=1, max=200, help="Maximum number of prompts.")] = 5,
) -> None:
    """Print a benchmark as YAML, with the judge's templates and some prompts."""
    with console.connect() as client:
        console.print_view(client.benchmark(name, dimension or (), limit=limit), "name")


@app.command()
def rescore(
    file: Annotated[
        Path, typer.Argument(metavar="FILE", exists=True, dir_okay=False, help="Result file: .csv, .jsonl or .json.")
    ],
    benchmark: Annotated[str, typer.Option(help="Benchmark of the results.")],
    out: Annotated[Path | None, typer.Option(help="Write all scores and test points as JSON.")] = None,
    resamples: options.Resamples = None,
    seed: Annotated[int | None, typer.Option(min=0, help="Bootstrap seed.")] = None,
) -> None:
    """Score a result file written by the official scripts, with intervals and the number of dropped answers."""
    with console.connect() as client:
        found = client.rescore(file, benchmark, points=out is not None, resamples=resamples, seed=seed)
    print_scores(found.scores)
    if out is not None:
        console.write_file(out, found.model_dump_json(indent=2).encode() + b"\n")


def leaderboard(
    benchmark: Annotated[str | None, typer.Option(help="Benchmark; default: shapes-bench.")] = None,
    out: Annotated[Path | None, typer.Option(help="Write a .md, .csv or .png file instead of printing.")] = None,
) -> None:
    """Show the ranking of models on a benchmark, including published results."""
    form = console.media_type(out, _LEADERBOARD_TYPES) if out else "text/markdown"
    with console.connect() as client:
        content = client.leaderboard_as(form, benchmark)
    if out is None:
        typer.echo(content.decode(), nl=False)
    else:
        console.write_file(out, content)


def _print_report(report: "Report") -> None:
    """Print to standard error what was read from a checkout. Raises EmbeddedError if the checkout is unusable."""
    for file in report.files:
        read = file.reading
        points = sum(len(prompt.points) for prompt in read.prompts)
        kind = "the official file" if read.pinned else "not the official file of this version"
        lines = [f"{file.file.path}: {len(read.prompts)} prompts, {points} test points, {kind}, sha256 {read.sha256}"]
        lines += [f"  repaired row {row.row} (index {row.index}): {row.description}" for row in read.repairs]
        lines += [f"  {problem}" for problem in read.problems[:_MAX_PRINTED_ROWS]]
        if len(read.problems) > _MAX_PRINTED_ROWS:
            lines.append(f"  and {len(read.problems) - _MAX_PRINTED_ROWS} more bad rows")
        console.print_line("\n".join(lines), to=console.stderr)
    if report.faults:
        raise EmbeddedError("\n".join(report.faults))


def print_scores(scores: Scores) -> None:
    """Print accuracies by dimension and sub-dimension, with their intervals."""
    overall = None if scores.overall is None else f"{scores.overall:.2%}"
    rows: list[tuple[Any, ...]] = [("overall", overall, _interval(scores.overall_interval95), "", "", "")]
    for name, accuracy in (("all test points", scores.micro), *scores.primary.items()):
        rows.append(_accuracy(name, accuracy))
        prefix = f"{name} - "
        rows += [
            _accuracy("  " + sub.removeprefix(prefix), part)
            for sub, part in scores.sub.items()
            if sub.startswith(prefix)
        ]
    console.print_table(("dimension", "accuracy", "95% interval", "met", "of", "failed"), rows)
    if scores.images is not None:
        console.print_line(
            f"{scores.images} images of {scores.prompts} prompts; {scores.failed_answers} answers failed "
            f"{scores.failures or ''}; {scores.missing_images} images are missing; {scores.recovered} answers were "
            "recovered from the judge's text"
        )


def _accuracy(name: str, found: Accuracy) -> tuple[Any, ...]:
    accuracy = None if found.accuracy is None else f"{found.accuracy:.2%}"
    return name, accuracy, _interval(found.interval95), found.correct, found.total, found.failures


def _interval(interval: tuple[float, float] | None) -> str:
    return "" if interval is None else f"{interval[0]:.2%} to {interval[1]:.2%}"
