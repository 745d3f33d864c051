"""Compare metrics of several runs and groups of seeds over a common axis.

Importing this module imports numpy, which takes 0.1 s.
"""

import math
import uuid
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from sqlalchemy.orm import Session

from service.api.curves.group_mean import Line, Numbers, increasing, joined, mean, resampled
from service.api.curves.schemas import MAX_METRICS, Axis, ComparedSeries, Comparison, ComparisonQuery, Kind
from service.api.curves.service import matches, smoothed
from service.db import metric_series
from service.db.models import Run
from service.http.content_negotiation import csv_text
from service.http.errors import invalid
from service.jobs import views

_UNITS: dict[Axis, str] = {"step": "optimizer steps", "nfe": "NFE", "seconds": "seconds"}
_ELAPSED: dict[Axis, str] = {"nfe": "elapsed/nfe", "seconds": "elapsed/seconds"}
"""The metrics that map steps to the other axes. They are written at every step."""
_MAX_POINTS = 1_000_000
"""The maximum number of points read for one response. For a group, the points of all its runs are counted."""

Ids = Sequence[uuid.UUID]
Ranges = Mapping[str, metric_series.Range]
"""A mapping from metric names to ranges of steps."""


def compare(session: Session, query: ComparisonQuery) -> Comparison:
    """Return the requested metrics of all groups and runs.

    Raises NotFound if a run is unknown, and Invalid if there are too many metrics or points.
    """
    reader = _Reader(session, query)
    metrics = reader.metrics()
    members: list[tuple[Kind, str, Ids]] = [("group", group.name, group.runs) for group in query.groups]
    members += [("run", reader.labels[id], (id,)) for id in query.run]
    ranges = [reader.common_ranges(ids, metrics) for _, _, ids in members]
    reader.check_points((ids, spans) for (_, _, ids), spans in zip(members, ranges, strict=True))
    series: dict[str, list[ComparedSeries]] = {metric: [] for metric in metrics}
    for (kind, name, ids), spans in zip(members, ranges, strict=True):
        for metric, lines in reader.lines(ids, spans).items():
            if lines and (line := reader.series(kind, name, metric, lines)).x:
                series[metric].append(line)
    return Comparison.model_construct(
        x=query.x,
        unit=_UNITS[query.x],
        band=query.band,
        heldout_pairs=reader.heldout_pairs(metrics),
        series=[line for lines in series.values() for line in lines],
        warnings=list(reader.warnings),
    )


def table(comparison: Comparison) -> str:
    """Format a comparison as CSV, with one line per point."""
    rows: list[tuple[object, ...]] = [("name", "kind", "metric", "x", "value", "low", "high", "n")]
    for series in comparison.series:
        empty = [None] * len(series.x)
        points = zip(series.x, series.values, series.low or empty, series.high or empty, series.n, strict=True)
        rows += [(series.name, series.kind, series.metric, *point) for point in points]
    return csv_text(rows)


class _Reader:
    """Reads the metrics of all runs in a query and collects warnings. Raises NotFound if a run is unknown."""

    def __init__(self, session: Session, query: ComparisonQuery) -> None:
        self.session, self.query = session, query
        ids = dict.fromkeys([*(id for group in query.groups for id in group.runs), *query.run])
        self.runs = {id: views.find(session, Run, id) for id in ids}
        self.labels = _labels(self.runs.values(), [group.name for group in query.groups])
        self.ranges = {id: {span.name: span for span in metric_series.latest(session, id)} for id in ids}
        self.warnings: dict[str, None] = {}
        """The warnings, in order. The keys of a dict are unique, so a run in several groups causes no duplicates."""

    def warn(self, text: str) -> None:
        """Add a warning unless it has already been added."""
        self.warnings[text] = None

    def metrics(self) -> list[str]:
        """Return the metrics that match the query's patterns, in pattern order.

        Raises Invalid if there are too many.
        """
        names = sorted({name for spans in self.ranges.values() for name in spans})
        found: dict[str, None] = {}
        for pattern in self.query.metric:
            matching = [name for name in names if matches(name, pattern)]
            if not matching:
                self.warn(f"no run has a metric that matches {pattern!r}")
            found |= dict.fromkeys(matching)
        if len(found) > MAX_METRICS:
            patterns = ", ".join(self.query.metric)[:200]
            msg = f"{patterns!r} matches {len(found)} metrics; at most {MAX_METRICS} are allowed"
            raise invalid(["query", "metric"], msg)
        return list(found)

    def heldout_pairs(self, metrics: Iterable[str]) -> int | None:
        """Return the number of held-out pairs, or None if it differs. Adds a warning for each setting that differs."""
        heldout = {id: run.spec.get("heldout") or {} for id, run in self.runs.items()}
        if any(metric.startswith("heldout/") for metric in metrics):
            for name in ("prompts", "pairs", "seed"):
                self._warn_of_difference(f"held-out {name}", {id: one.get(name) for id, one in heldout.items()})
        self._warn_of_difference(
            "rewards",
            {
                id: [f"{r['name']} x {r.get('weight', 1)}" for r in run.spec.get("rewards", ())]
                for id, run in self.runs.items()
            },
        )
        pairs = {one.get("pairs") for one in heldout.values()}
        return pairs.pop() if len(pairs) == 1 else None

    def _warn_of_difference(self, name: str, values: Mapping[uuid.UUID, object]) -> None:
        if len(set(map(str, values.values()))) > 1:
            shown = "; ".join(f"{self.labels[id]}: {value}" for id, value in list(values.items())[:4])
            self.warn(f"not comparable: the runs have different {name} ({shown})")

    def common_ranges(self, ids: Ids, metrics: Iterable[str]) -> dict[str, metric_series.Range]:
        """Return, by metric, the range from the first step of any of the runs to the last.

        Adds a warning for each run that does not have a metric.
        """
        found = {}
        for metric in metrics:
            spans = []
            for id in ids:
                span = self.ranges[id].get(metric)
                if span is None or span.last_step < self.query.since_step:
                    self.warn(f"run {self.labels[id]} has no metric {metric}")
                else:
                    spans.append(span)
            if spans:
                first = max(min(span.first_step for span in spans), self.query.since_step)
                found[metric] = metric_series.Range(metric, first, max(span.last_step for span in spans))
        return found

    def check_points(self, members: Iterable[tuple[Ids, Ranges]]) -> None:
        """Raise Invalid if the response might contain too many points."""
        spans = [
            span for ids, spans in members for id in ids for span in spans.values() if span.name in self.ranges[id]
        ]
        limit = self.query.max_points
        points = sum(min(span.last_step - span.first_step + 1, limit) for span in spans)
        if points > _MAX_POINTS:
            msg = f"Too many points: up to {points} for {len(spans)} lines; at most {_MAX_POINTS} are allowed. "
            raise invalid(["query", "max_points"], msg + f"Set max_points to {_MAX_POINTS // len(spans)} or less")

    def lines(self, ids: Ids, ranges: Ranges) -> dict[str, dict[uuid.UUID, Line]]:
        """Return, by metric and run, the values over x. All of these runs are divided into the same buckets."""
        query = self.query
        buckets = {id: self._buckets(id, ranges) for id in ids}
        elapsed = {} if query.x == "step" else {id: self._elapsed(id, found.values()) for id, found in buckets.items()}
        lines: dict[str, dict[uuid.UUID, Line]] = {}
        for metric, span in ranges.items():
            of_runs = {id: found[metric] for id, found in buckets.items() if metric in found}
            steps = {step for found in of_runs.values() for step in found.steps}
            first_steps = _first_steps(steps, span.first_step, span.width(query.max_points))
            lines[metric] = {}
            for id, found in of_runs.items():
                x = first_steps if query.x == "step" else elapsed[id]
                values = smoothed(found.means, found.counts, query.smooth) if query.smooth else found.means
                points = [(x[step], value) for step, value in zip(found.steps, values, strict=True) if step in x]
                if points:
                    lines[metric][id] = increasing(points)
        return lines

    def series(self, kind: Kind, name: str, metric: str, lines: Mapping[uuid.UUID, Line]) -> ComparedSeries:
        """Return the line of a run, or the mean of a group's lines with a band."""
        query, of_runs = self.query, list(lines.values())
        x, values = joined(of_runs) if query.x == "step" or kind == "run" else resampled(of_runs, query.max_points)
        found = mean(values, query.band)
        if not len(x):
            self.warn(f"the runs of group {name} have no common range of {query.x} for {metric}")
        elif kind == "group" and found.n.min() < len(of_runs):
            self.warn(f"group {name}: some of its {len(of_runs)} runs lack points of {metric}; see `n`")
        low, high = _finite(found.low), _finite(found.high)
        has_band = any(edge is not None for edge in low)
        return ComparedSeries.model_construct(
            name=name,
            kind=kind,
            runs=[str(id) for id in lines],
            metric=metric,
            x=x.tolist(),
            values=_finite(found.values),
            low=low if has_band else None,
            high=high if has_band else None,
            n=found.n.tolist(),
        )

    def _buckets(self, id: uuid.UUID, ranges: Ranges) -> dict[str, metric_series.Buckets]:
        spans = [span for metric, span in ranges.items() if metric in self.ranges[id]]
        found = metric_series.buckets(self.session, self.runs[id], spans, self.query.since_step, self.query.max_points)
        return {buckets.name: buckets for buckets in found}

    def _elapsed(self, id: uuid.UUID, buckets: Iterable[metric_series.Buckets]) -> Mapping[int, float]:
        """Return the run's x values by step. Adds a warning if any are missing."""
        name, label = _ELAPSED[self.query.x], self.labels[id]
        if name not in self.ranges[id]:
            self.warn(f"run {label} has no {name}: its points are omitted")
            return {}
        steps = {step for found in buckets for step in found.steps}
        values = metric_series.at(self.session, id, name, steps)
        if missing := len(steps) - len(values):
            self.warn(f"run {label} has no {name} at {missing} of {len(steps)} steps: their points are omitted")
        return values


def _first_steps(steps: Iterable[int], first: int, width: int) -> dict[int, float]:
    """Map each step to the smallest step in its bucket, so that all runs of a group share the x of a bucket."""
    smallest: dict[int, int] = {}
    for step in sorted(steps):
        smallest.setdefault((step - first) // width, step)
    return {step: smallest[(step - first) // width] for step in steps}


def _labels(runs: Iterable[Run], groups: Iterable[str]) -> dict[uuid.UUID, str]:
    """Return the labels of runs: the name, or the id if the run has no name.

    The end of the id is appended to names that several runs or groups share.
    """
    names = {run.id: run.name.strip() for run in runs}
    counts = Counter([*names.values(), *groups])
    return {
        id: str(id) if not name else name if counts[name] == 1 else f"{name} (…{str(id)[-8:]})"
        for id, name in names.items()
    }


def _finite(values: Numbers) -> list[float | None]:
    return [value if math.isfinite(value) else None for value in values.tolist()]
