"""The rules of curves: which metrics are meant, buckets that keep spikes, smoothing, tables."""

import csv
import io
import uuid
from collections.abc import Sequence

from sqlalchemy.orm import Session

from service.api.curves.schemas import Curve, CurveQuery, Curves
from service.db import metric_series
from service.db.models import Run
from service.jobs import views


def curves(session: Session, run_id: uuid.UUID, query: CurveQuery) -> Curves:
    """The curves of a run. Raises NotFound."""
    run = views.find(session, Run, run_id)
    wanted = metric_series.latest(session, run_id)
    if patterns := separated(query.metrics):
        wanted = [one for one in wanted if any(matches(one.name, pattern) for pattern in patterns)]
    found = metric_series.buckets(session, run, wanted, query.since_step, query.max_points)
    return Curves(run_id=str(run_id), curves=[_curve(one, query.smooth) for one in found])


def table(curves: Curves) -> str:
    """The curves as CSV, one point a line."""
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(["name", "step", "value", "min", "max"])
    for curve in curves.curves:
        lows, highs = curve.min or curve.values, curve.max or curve.values
        writer.writerows((curve.name, *point) for point in zip(curve.steps, curve.values, lows, highs, strict=True))
    return text.getvalue()


def smoothed(values: Sequence[float | None], counts: Sequence[int], keep: float) -> list[float | None]:
    """The moving average of bucket means: a bucket of n values weighs as n equal values one after another would."""
    average, weight = 0.0, 0.0
    result: list[float | None] = []
    for value, count in zip(values, counts, strict=True):
        if value is None:
            result.append(None)
            continue
        share = 1 - keep**count
        average = (1 - share) * average + share * value
        weight = (1 - share) * weight + share
        result.append(average / weight)
    return result


def separated(names: Sequence[str]) -> list[str]:
    """The names that a repeated parameter holds, some of them between commas."""
    return [name.strip() for several in names for name in several.split(",") if name.strip()]


def matches(name: str, pattern: str) -> bool:
    """Whether a metric is meant by a name, or by a beginning with `*`."""
    return name.startswith(pattern[:-1]) if pattern.endswith("*") else name == pattern


def _curve(found: metric_series.Buckets, smooth: float) -> Curve:
    single = all(count <= 1 for count in found.counts)
    return Curve.model_construct(
        name=found.name,
        steps=found.steps,
        values=smoothed(found.means, found.counts, smooth) if smooth else found.means,
        min=None if single and not smooth else found.lows,
        max=None if single and not smooth else found.highs,
    )
