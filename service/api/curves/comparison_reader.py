"""Reads the lines of a comparison, and takes down what is missing."""

import uuid
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from sqlalchemy.orm import Session

from service.api.curves.comparison_schemas import MOST_METRICS, Axis, ComparisonQuery
from service.api.curves.group_mean import Line, advancing
from service.api.curves.service import matches, separated, smoothed
from service.db import metric_series
from service.db.models import Run
from service.http.errors import invalid
from service.jobs import views

_ELAPSED: dict[Axis, str] = {"nfe": "elapsed/nfe", "seconds": "elapsed/seconds"}
"""The metrics, written at every step, that lead from a step to another x."""
_MOST_POINTS = 1_000_000
"""Of one answer, those of a group's runs counted."""

Ids = Sequence[uuid.UUID]
Spans = Mapping[str, metric_series.Range]
"""By metric, from where to where runs have it."""


@dataclass
class Reading:
    """Reads what a query asks of runs. Raises NotFound for a run that does not exist."""

    session: Session
    query: ComparisonQuery
    runs: dict[uuid.UUID, Run] = field(init=False)
    labels: dict[uuid.UUID, str] = field(init=False)
    """What each run is called, no two the same."""
    had: dict[uuid.UUID, Spans] = field(init=False)
    """Each run's metrics."""
    warnings: dict[str, None] = field(default_factory=dict)
    """In order, each once: a run may be alone and in several groups."""

    def __post_init__(self) -> None:
        groups = self.query.groups
        ids = dict.fromkeys([*(id for group in groups for id in group.runs), *self.query.run])
        self.runs = {id: views.find(self.session, Run, id) for id in ids}
        self.labels = _labels(self.runs.values(), [group.name for group in groups])
        self.had = {id: {one.name: one for one in metric_series.latest(self.session, id)} for id in ids}

    def warn(self, text: str) -> None:
        """Take down what the answer lacks."""
        self.warnings[text] = None

    def metrics(self) -> list[str]:
        """The metrics that are meant, in the order of the query's patterns. Raises Invalid for too many."""
        names = sorted({name for its in self.had.values() for name in its})
        meant: dict[str, None] = {}
        for pattern in separated(self.query.metric):
            fitting = [name for name in names if matches(name, pattern)]
            if not fitting:
                self.warn(f"no run has a metric {pattern!r}")
            meant |= dict.fromkeys(fitting)
        if len(meant) > MOST_METRICS:
            asked = ", ".join(separated(self.query.metric))
            msg = f"{asked[:200]!r} means {len(meant)} metrics of these runs; at most {MOST_METRICS} are allowed"
            raise invalid(["query", "metric"], msg)
        return list(meant)

    def spans(self, ids: Ids, metrics: Iterable[str]) -> dict[str, metric_series.Range]:
        """From where to where the runs have each metric, taken together."""
        found = {}
        for metric in metrics:
            having = []
            for id in ids:
                one = self.had[id].get(metric)
                if one is None or one.last_step < self.query.since_step:
                    self.warn(f"run {self.labels[id]} has no {metric} to show")
                else:
                    having.append(one)
            if having:
                first = max(min(one.first_step for one in having), self.query.since_step)
                found[metric] = metric_series.Range(metric, first, max(one.last_step for one in having))
        return found

    def refuse_too_many(self, asked: Iterable[tuple[Ids, Spans]]) -> None:
        """Raises Invalid where the answer might have too many points."""
        spans = [span for ids, its in asked for id in ids for name, span in its.items() if name in self.had[id]]
        most = self.query.max_points
        points = sum(min(span.last_step - span.first_step + 1, most) for span in spans)
        if points > _MOST_POINTS:
            msg = f"{most} makes up to {points} points of {len(spans)} lines; at most {_MOST_POINTS} are allowed: "
            raise invalid(["query", "max_points"], msg + f"say {_MOST_POINTS // len(spans)} or less")

    def lines(self, ids: Ids, spans: Spans) -> dict[str, dict[uuid.UUID, Line]]:
        """By metric, and then by run, the values over x, cut into the same buckets for all these runs."""
        query = self.query
        cut = {id: self._buckets(id, spans) for id in ids}
        elapsed = {} if query.x == "step" else {id: self._elapsed(id, its.values()) for id, its in cut.items()}
        found: dict[str, dict[uuid.UUID, Line]] = {}
        for metric, span in spans.items():
            having = {id: its[metric] for id, its in cut.items() if metric in its}
            steps = {step for one in having.values() for step in one.steps}
            places = _first_steps(steps, span.first_step, span.width(query.max_points)) if query.x == "step" else {}
            found[metric] = {}
            for id, one in having.items():
                x = places or elapsed[id]
                values = smoothed(one.means, one.counts, query.smooth) if query.smooth else one.means
                points = [(x[step], value) for step, value in zip(one.steps, values, strict=True) if step in x]
                if points:
                    found[metric][id] = advancing(points)
        return found

    def _buckets(self, id: uuid.UUID, spans: Spans) -> dict[str, metric_series.Buckets]:
        its = [span for metric, span in spans.items() if metric in self.had[id]]
        found = metric_series.buckets(self.session, self.runs[id], its, self.query.since_step, self.query.max_points)
        return {one.name: one for one in found}

    def _elapsed(self, id: uuid.UUID, cut: Iterable[metric_series.Buckets]) -> Mapping[int, float]:
        """By step, the run's x."""
        name, label = _ELAPSED[self.query.x], self.labels[id]
        if name not in self.had[id]:
            self.warn(f"run {label} has no {name}: its points are left out")
            return {}
        steps = {step for one in cut for step in one.steps}
        found = metric_series.at(self.session, id, name, steps)
        if missing := len(steps) - len(found):
            self.warn(f"run {label} has no {name} at {missing} of {len(steps)} steps: their points are left out")
        return found


def _first_steps(steps: Iterable[int], first: int, width: int) -> dict[int, float]:
    """For each step the least one of its bucket: there all runs of a group have the bucket."""
    least: dict[int, int] = {}
    for step in sorted(steps):
        least.setdefault((step - first) // width, step)
    return {step: least[(step - first) // width] for step in steps}


def _labels(runs: Iterable[Run], groups: Iterable[str]) -> dict[uuid.UUID, str]:
    """Names, or ids where there are none; the end of the id tells those of the same name apart."""
    names = {run.id: run.name.strip() for run in runs}
    bearers = Counter([*names.values(), *groups])
    return {
        id: str(id) if not name else name if bearers[name] == 1 else f"{name} (…{str(id)[-8:]})"
        for id, name in names.items()
    }
