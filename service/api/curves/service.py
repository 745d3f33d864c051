"""Select, smooth and format the convergence curves of one run."""

import uuid
from collections.abc import Sequence

from sqlalchemy.orm import Session

from service.api.curves.schemas import Curve, CurveQuery, Curves
from service.db import metric_series
from service.db.models import Run
from service.http.content_negotiation import csv_text
from service.jobs import views


def curves(session: Session, run_id: uuid.UUID, query: CurveQuery) -> Curves:
    """Return the curves of a run. Raises NotFound."""
    run = views.find(session, Run, run_id)
    ranges = metric_series.latest(session, run_id)
    if query.metrics:
        ranges = [span for span in ranges if any(matches(span.name, pattern) for pattern in query.metrics)]
    buckets = metric_series.buckets(session, run, ranges, query.since_step, query.max_points)
    return Curves(run_id=str(run_id), curves=[_curve(metric, query.smooth) for metric in buckets])


def table(curves: Curves) -> str:
    """Format curves as CSV, with one line per point."""
    rows = [
        (curve.name, *point)
        for curve in curves.curves
        for point in zip(curve.steps, curve.values, curve.min or curve.values, curve.max or curve.values, strict=True)
    ]
    return csv_text([("name", "step", "value", "min", "max"), *rows])


def smoothed(values: Sequence[float | None], counts: Sequence[int], decay: float) -> list[float | None]:
    """Compute the exponential moving average of bucket means, with bias correction.

    A bucket of n values counts as n consecutive equal values.
    """
    average, weight = 0.0, 0.0
    result: list[float | None] = []
    for value, count in zip(values, counts, strict=True):
        if value is None:
            result.append(None)
            continue
        share = 1 - decay**count
        average = (1 - share) * average + share * value
        weight = (1 - share) * weight + share
        result.append(average / weight)
    return result


def matches(name: str, pattern: str) -> bool:
    """Whether a metric name equals the pattern, or starts with the part before `*` if the pattern ends in `*`."""
    return name.startswith(pattern[:-1]) if pattern.endswith("*") else name == pattern


def _curve(buckets: metric_series.Buckets, smooth: float) -> Curve:
    single = all(count <= 1 for count in buckets.counts) and not smooth
    return Curve.model_construct(
        name=buckets.name,
        steps=buckets.steps,
        values=smoothed(buckets.means, buckets.counts, smooth) if smooth else buckets.means,
        min=None if single else buckets.lows,
        max=None if single else buckets.highs,
    )
