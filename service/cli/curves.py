"""`g2rpo curves`: runs and groups of seeds over each other."""

from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from rich.table import Table

from service.api.curves.comparison_schemas import Axis, Band, Comparison
from service.cli.console import connect, console, errors
from service.cli.show import number

_FORMS = (".csv", ".json", ".png", ".svg")


def curves(
    metric: Annotated[list[str], typer.Option(help="A name, or a beginning with *; repeatable, a panel each.")],
    run: Annotated[list[str] | None, typer.Option(metavar="ID", help="A run by itself; repeatable.")] = None,
    group: Annotated[
        list[str] | None, typer.Option(metavar="NAME=ID,ID", help="Seeds, shown as their mean; repeatable.")
    ] = None,
    x: Annotated[Axis, typer.Option(help="Optimizer steps, NFE, or time.")] = "step",
    band: Annotated[
        Band,
        typer.Option(help="About a group's mean: its 95% confidence interval, the standard deviation, least to most."),
    ] = "ci95",
    smooth: Annotated[float, typer.Option(help="Weight each step keeps of what came before, below 1.")] = 0,
    since_step: Annotated[int, typer.Option(min=0, help="From this optimizer step on.")] = 0,
    max_points: Annotated[int, typer.Option(min=1, help="Most points of a line.")] = 500,
    width_mm: Annotated[float, typer.Option(help="Width of a figure in millimetres.")] = 170,
    out: Annotated[Path | None, typer.Option(help="Write a .csv, .json, .png or .svg instead of printing.")] = None,
) -> None:
    """Compare runs: print where each begins and ends, or write their curves or a figure of them to a file."""
    if out is not None and out.suffix not in _FORMS:
        raise typer.BadParameter(f"{out} must end in one of {', '.join(_FORMS)}")
    groups: dict[str, list[str]] = {}
    for name, ids in map(_group, group or []):
        if name in groups:
            raise typer.BadParameter(f"there are two groups {name!r}; each needs a name of its own")
        groups[name] = ids
    asked: dict[str, Any] = {"runs": run or [], "groups": groups, "x": x, "band": band, "smooth": smooth}
    asked |= {"since_step": since_step, "max_points": max_points}
    with connect() as client:
        found = client.compare(metric, **asked)
        for warning in found.warnings:
            errors.print(f"warning: {warning}", markup=False, highlight=False, soft_wrap=True)
        if out is None:
            _print(found)
            return
        if out.suffix == ".json":
            out.write_text(found.model_dump_json(), encoding="utf-8")
        elif out.suffix == ".csv":
            out.write_bytes(client.compare_table(metric, **asked))
        else:
            form: Literal["png", "svg"] = "png" if out.suffix == ".png" else "svg"
            out.write_bytes(client.compare_figure(metric, form, width_mm=width_mm, **asked))
    console.print(f"wrote {out}", highlight=False)


def _group(text: str) -> tuple[str, list[str]]:
    name, equals, ids = text.rpartition("=")
    if not equals:
        raise typer.BadParameter(f"{text!r} is no group; write NAME=ID,ID")
    return name, ids.split(",")


def _print(found: Comparison) -> None:
    table = Table("metric", "name", "runs", f"last {found.unit}", "first", "last", "from", "to", box=None)
    for one in found.series:
        edges = [number(one.low[-1]), number(one.high[-1])] if one.low and one.high else ["", ""]
        ends = [number(one.x[-1]), number(one.values[0]), number(one.values[-1])]
        table.add_row(one.metric, one.name, str(len(one.runs)), *ends, *edges)
    console.print(table)
