"""The rules of comparisons: what is shown of a run and of a group, and tables of it."""

import csv
import io
import math
import uuid
from collections.abc import Mapping

from sqlalchemy.orm import Session

from service.api.curves.comparison_reader import Reading
from service.api.curves.comparison_schemas import Axis, ComparedSeries, Comparison, ComparisonQuery
from service.api.curves.group_mean import Line, Numbers, joined, mean, resampled

_UNITS: dict[Axis, str] = {"step": "optimizer steps", "nfe": "NFE", "seconds": "seconds"}


def compare(session: Session, query: ComparisonQuery) -> Comparison:
    """The metrics of all groups and runs. Raises NotFound, Invalid."""
    reading = Reading(session, query)
    metrics = reading.metrics()
    shown = [("group", group.name, group.runs) for group in query.groups]
    shown += [("run", reading.labels[id], (id,)) for id in query.run]
    spans = [reading.spans(ids, metrics) for _, _, ids in shown]
    reading.refuse_too_many((ids, its) for (_, _, ids), its in zip(shown, spans, strict=True))
    found: dict[str, list[ComparedSeries]] = {metric: [] for metric in metrics}
    for (kind, name, ids), its in zip(shown, spans, strict=True):
        for metric, lines in reading.lines(ids, its).items():
            if not lines:
                continue
            one = _group(name, metric, lines, reading) if kind == "group" else _run(name, metric, lines)
            if one.x:
                found[metric].append(one)
    return Comparison.model_construct(
        x=query.x,
        unit=_UNITS[query.x],
        band=query.band,
        series=[one for several in found.values() for one in several],
        warnings=list(reading.warnings),
    )


def table(comparison: Comparison) -> str:
    """The comparison as CSV, one point a line."""
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(["name", "kind", "metric", "x", "value", "low", "high", "n"])
    for one in comparison.series:
        none = [None] * len(one.x)
        points = zip(one.x, one.values, one.low or none, one.high or none, one.n, strict=True)
        writer.writerows((one.name, one.kind, one.metric, *point) for point in points)
    return text.getvalue()


def _run(name: str, metric: str, lines: Mapping[uuid.UUID, Line]) -> ComparedSeries:
    ((id, line),) = lines.items()
    values = _known(line.values)
    return ComparedSeries.model_construct(
        name=name,
        kind="run",
        runs=[str(id)],
        metric=metric,
        x=line.x.tolist(),
        values=values,
        low=None,
        high=None,
        n=[int(value is not None) for value in values],
    )


def _group(name: str, metric: str, lines: Mapping[uuid.UUID, Line], reading: Reading) -> ComparedSeries:
    query, of_runs = reading.query, list(lines.values())
    x, values = joined(of_runs) if query.x == "step" else resampled(of_runs, query.max_points)
    found = mean(values, query.band)
    if not len(x):
        reading.warn(f"the runs of group {name} have no {query.x} in common at which {metric} is known")
    elif found.n.min() < len(of_runs):
        reading.warn(f"group {name}: not each of its {len(of_runs)} runs has every point of {metric}; n counts them")
    low, high = _known(found.low), _known(found.high)
    banded = any(edge is not None for edge in low)
    return ComparedSeries.model_construct(
        name=name,
        kind="group",
        runs=[str(id) for id in lines],
        metric=metric,
        x=x.tolist(),
        values=_known(found.values),
        low=low if banded else None,
        high=high if banded else None,
        n=found.n.tolist(),
    )


def _known(values: Numbers) -> list[float | None]:
    return [value if math.isfinite(value) else None for value in values.tolist()]
