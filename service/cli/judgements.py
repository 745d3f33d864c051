"""`g2rpo evaluations answers`, `export`, `compare`, `gallery`: what evaluations found."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from rich.table import Table

from service.cli.console import connect, console, errors
from service.cli.evaluations import EvaluationId
from service.contracts.benchmarks.judging import Failure

if TYPE_CHECKING:
    from service.contracts.benchmarks.scores import Difference

DimensionOption = Annotated[
    list[str] | None, typer.Option(help="Only prompts with a test point of this dimension; repeatable.")
]
_SIGNS = {1: "+", 0: "-", None: "?"}
_FORMS: dict[str, Literal["png", "html"]] = {".png": "png", ".html": "html"}


def answers(
    evaluation_id: EvaluationId,
    dimension: DimensionOption = None,
    index: Annotated[int | None, typer.Option(min=0, help="Only of this prompt.")] = None,
    met: Annotated[
        bool | None, typer.Option("--met/--unmet", help="Only with a test point that was met, or was not.")
    ] = None,
    failure: Annotated[Failure | None, typer.Option(help="Only those that could not be read, for this reason.")] = None,
    all_tries: Annotated[bool, typer.Option("--all-tries", help="Earlier answers on an image, too.")] = False,
    words: Annotated[bool, typer.Option("--words", help="The judge's own words, too.")] = False,
    limit: Annotated[int, typer.Option(min=1, help="At most so many.")] = 20,
) -> None:
    """Show what the judge found in each image: + met, - not met, ? not said."""
    tries: Literal["newest", "all"] = "all" if all_tries else "newest"
    with connect() as client:
        found = client.answers(
            evaluation_id, dimension=dimension or (), index=index, met=met, failure=failure, tries=tries
        )
        for _, one in zip(range(limit), found, strict=False):
            failed = f"  {one.failure} {one.error}" if one.failure else ""
            _line(f"{one.name}  {one.prompt}{failed}")
            for point in one.points:
                _line(f"  {_SIGNS[point.score]} {point.name}: {point.description}")
            if words and one.text is not None:
                _line(one.text)


def export(
    evaluation_id: EvaluationId,
    out: Annotated[Path | None, typer.Option(help="A .csv, or a .json of counts; default: EVALUATION.csv.")] = None,
) -> None:
    """Write the official scripts' result file; they, and `g2rpo benchmarks rescore`, make the same scores of it."""
    file = out or Path(f"{evaluation_id}.csv")
    if file.suffix not in (".csv", ".json"):
        raise typer.BadParameter(f"{file} must end in .csv or .json")
    with connect() as client:
        client.export_evaluation(evaluation_id, file)
    console.print(f"wrote {file}", highlight=False, soft_wrap=True)


def compare(
    first: Annotated[str, typer.Argument(metavar="FIRST", help="An evaluation's id.")],
    second: Annotated[str, typer.Argument(metavar="SECOND", help="Another's, of the same benchmark and judge.")],
    resamples: Annotated[int | None, typer.Option(min=0, help="Of the bootstrap; 0: no intervals.")] = None,
    seed: Annotated[int | None, typer.Option(min=0, help="Of the bootstrap.")] = None,
) -> None:
    """Show the second evaluation less the first, with 95% paired intervals and prompts won and lost."""
    with connect() as client:
        found = client.compare_evaluations(first, second, resamples=resamples, seed=seed)
    for warning in found.warnings:
        errors.print(f"warning: {warning}", markup=False, highlight=False, soft_wrap=True)
    _line(f"{found.second.label} less {found.first.label}, on {found.benchmark}, judge {found.judge or 'none'}")
    table = Table("", "difference", "95% interval", "won", "lost", "tied", box=None)
    if found.scores is not None:
        for name, one in (("overall", found.scores.overall), *found.scores.primary.items()):
            table.add_row(name, *_cells(one, 100, " points"))
    for name, one in found.rewards.items():
        table.add_row(name, *_cells(one, 1, ""))
    console.print(table)


def gallery(
    evaluation_id: EvaluationId,
    beside: Annotated[
        list[str] | None, typer.Option("--with", metavar="EVALUATION", help="Another one beside it; repeatable.")
    ] = None,
    dimension: DimensionOption = None,
    index: Annotated[list[int] | None, typer.Option(min=0, help="This prompt; repeatable.")] = None,
    count: Annotated[int, typer.Option(min=1, help="Prompts drawn by lot, where none is named.")] = 4,
    seed: Annotated[int, typer.Option(min=0, help="Of the lot.")] = 0,
    images: Annotated[int | None, typer.Option(min=1, help="Of each prompt.")] = None,
    out: Annotated[Path, typer.Option(help="A .png, or an .html page of its own.")] = Path("gallery.png"),
) -> None:
    """Write images of an evaluation, or of several side by side, with the test points that each met."""
    if out.suffix not in _FORMS:
        raise typer.BadParameter(f"{out} must end in {' or '.join(_FORMS)}")
    with connect() as client:
        drawn = client.gallery(
            evaluation_id,
            _FORMS[out.suffix],
            beside=beside or (),
            dimension=dimension or (),
            index=index or (),
            count=count,
            seed=seed,
            images=images,
        )
    out.write_bytes(drawn)
    console.print(f"wrote {out}", highlight=False, soft_wrap=True)


def _line(text: str) -> None:
    console.print(text, markup=False, highlight=False, soft_wrap=True)


def _cells(one: "Difference", scale: float, unit: str) -> tuple[str, ...]:
    difference = "" if one.difference is None else f"{scale * one.difference:+.4g}{unit}"
    ends = "" if one.interval95 is None else " to ".join(f"{scale * end:+.4g}" for end in one.interval95)
    return difference, ends, str(one.wins), str(one.losses), str(one.ties)
