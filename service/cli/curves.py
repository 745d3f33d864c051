"""`g2rpo curves`: compare the metrics of several runs, and means over groups of runs, in one table or figure."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from service.api.curves.schemas import Axis, Band
from service.api.curves.service import matches
from service.cli import console, ids
from service.client import Client
from service.contracts.validation_errors import did_you_mean

_TYPES = {suffix: suffix for suffix in (".csv", ".json", ".png", ".svg")}


@console.with_formats
def curves(
    metric: Annotated[list[str], typer.Option(help="Metric, or a prefix ending in *; repeatable, one panel each.")],
    run: Annotated[list[str] | None, typer.Option(metavar="ID", parser=ids.run, help="Single run; repeatable.")] = None,
    group: Annotated[
        list[str] | None, typer.Option(metavar="NAME=ID,ID", help="Runs to average, such as seeds; repeatable.")
    ] = None,
    x: Annotated[Axis, typer.Option(help="X axis: optimizer steps, NFE, or seconds.")] = "step",
    band: Annotated[
        Band, typer.Option(help="Band around a group's mean: 95% confidence interval, standard deviation, or range.")
    ] = "ci95",
    smooth: Annotated[float, typer.Option(help="Weight of the exponential moving average, 0 to 1.")] = 0,
    since_step: Annotated[int, typer.Option(min=0, help="First optimizer step.")] = 0,
    max_points: Annotated[int, typer.Option(min=1, help="Maximum number of points per curve.")] = 500,
    width_mm: Annotated[float, typer.Option(help="Figure width in millimeters.")] = 170,
    out: Annotated[Path | None, typer.Option(help="Write a .csv, .json, .png or .svg file.")] = None,
) -> None:
    """Compare runs: print the first and last values of their metrics, or write the curves or a figure to a file."""
    form = console.media_type(out, _TYPES) if out is not None else None
    groups: dict[str, list[str]] = {}
    for name, runs in (console.split_pair(text, "=", "NAME=ID,ID") for text in group or ()):
        if name in groups:
            raise typer.BadParameter(f"Duplicate group {name!r}; group names must be unique")
        groups[name] = [ids.run(id) for id in runs.split(",")]
    options: dict[str, Any] = {"runs": run or (), "groups": groups, "x": x, "band": band, "smooth": smooth}
    options |= {"since_step": since_step, "max_points": max_points}
    with console.connect() as client:
        check_metrics(client, {*(run or ()), *(id for runs in groups.values() for id in runs)}, metric)
        found = client.compare(metric, **options)
        console.print_warnings(found.warnings)
        if out is None or form == ".json":
            content = found.model_dump_json().encode()
        elif form == ".csv":
            content = client.compare_table(metric, **options)
        else:
            content = client.compare_figure(metric, "png" if form == ".png" else "svg", width_mm=width_mm, **options)
    if out is not None:
        console.write_file(out, content)
        return
    console.print_items(
        found.series,
        *("metric", "name"),
        runs=lambda curve: len(curve.runs),
        x=lambda curve: curve.x[-1],
        first=lambda curve: curve.values[0],
        last=lambda curve: curve.values[-1],
        low=lambda curve: curve.low[-1] if curve.low else None,
        high=lambda curve: curve.high[-1] if curve.high else None,
    )


def check_metrics(client: Client, runs: Iterable[str], patterns: Sequence[str]) -> None:
    """Raise BadParameter for a pattern that no metric of the runs matches. A run without metrics matches everything."""
    known = sorted({name for id in runs for name in client.run(id).metrics}) if patterns else []
    for pattern in patterns:
        if known and not any(matches(name, pattern) for name in known):
            hint = did_you_mean(pattern, known)
            raise typer.BadParameter(f"Unknown metric {pattern!r}{hint}; recorded: {', '.join(known)}")
