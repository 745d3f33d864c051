"""Read metrics by primary key. For each step, only the value from the newest attempt is used."""

import uuid
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from sqlalchemy import text
from sqlalchemy.orm import Session

from service.db.models import Run

# One index probe per name finds the next name, so the cost depends on the number of names, not of rows.
_LATEST = text("""
WITH RECURSIVE names(name) AS (
    (SELECT name FROM metrics WHERE run_id = :run ORDER BY name LIMIT 1)
    UNION ALL
    SELECT (SELECT m.name FROM metrics m WHERE m.run_id = :run AND m.name > names.name ORDER BY m.name LIMIT 1)
    FROM names WHERE names.name IS NOT NULL
)
SELECT names.name, first.step, latest.step, latest.value
FROM names,
LATERAL (SELECT m.step FROM metrics m WHERE m.run_id = :run AND m.name = names.name ORDER BY m.step LIMIT 1) first,
LATERAL (SELECT m.step, m.value FROM metrics m WHERE m.run_id = :run AND m.name = names.name
         ORDER BY m.step DESC, m.attempt DESC LIMIT 1) latest
WHERE names.name IS NOT NULL ORDER BY names.name
""")

_BUCKETS = """
WITH series AS (
    SELECT * FROM unnest(CAST(:names AS text[]), CAST(:firsts AS int[]), CAST(:widths AS int[]))
    AS s(name, first, width)
)
SELECT series.name, array_agg(b.step), array_agg(b.mean), array_agg(b.low), array_agg(b.high), array_agg(b.count)
FROM series,
LATERAL (
    SELECT min(step) AS step, avg(value) AS mean, min(value) AS low, max(value) AS high, count(value) AS count
    FROM (
        SELECT {newest} m.step, m.value FROM metrics m
        WHERE m.run_id = :run AND m.name = series.name AND m.step >= series.first
        {order}
    ) newest
    GROUP BY (step - series.first) / series.width ORDER BY 1
) b
GROUP BY series.name ORDER BY series.name
"""
_ONE_ATTEMPT = text(_BUCKETS.format(newest="", order=""))
_NEWEST_ATTEMPT = text(_BUCKETS.format(newest="DISTINCT ON (m.step)", order="ORDER BY m.step DESC, m.attempt DESC"))

_AT = text("""
SELECT DISTINCT ON (m.step) m.step, m.value FROM metrics m
WHERE m.run_id = :run AND m.name = :name AND m.step = ANY(CAST(:steps AS int[]))
ORDER BY m.step DESC, m.attempt DESC
""")


@dataclass(frozen=True)
class Range:
    """A metric name with its first and last step."""

    name: str
    first_step: int
    last_step: int

    def width(self, max_points: int) -> int:
        """Return the number of steps per bucket that gives at most `max_points` buckets of equal width."""
        return -(-(self.last_step - self.first_step + 1) // max_points)


@dataclass(frozen=True)
class Latest(Range):
    """A metric of a run with its first step, last step and last value."""

    value: float | None


@dataclass(frozen=True)
class Buckets:
    """A metric in buckets: the first step of each, and the mean, minimum, maximum and count of its finite values."""

    name: str
    steps: list[int]
    means: list[float | None]
    lows: list[float | None]
    highs: list[float | None]
    counts: list[int]


def latest(session: Session, run_id: uuid.UUID) -> list[Latest]:
    """Return the latest value and the step range of every metric of a run, sorted by name."""
    return [Latest(*row) for row in session.execute(_LATEST, {"run": run_id})]


def at(session: Session, run_id: uuid.UUID, name: str, steps: Collection[int]) -> dict[int, float]:
    """Return the finite values of a metric at the given steps."""
    rows = session.execute(_AT, {"run": run_id, "name": name, "steps": sorted(steps)})
    return {step: value for step, value in rows if value is not None}


def buckets(session: Session, run: Run, ranges: Sequence[Range], since_step: int, max_points: int) -> list[Buckets]:
    """Return the metrics in `ranges` from `since_step` on, each in at most `max_points` buckets of equal width.

    Selecting the newest attempt takes a third of the time, so it is skipped for runs with a single attempt.
    """
    shown = [Range(r.name, max(r.first_step, since_step), r.last_step) for r in ranges if r.last_step >= since_step]
    parameters = {
        "run": run.id,
        "names": [metric.name for metric in shown],
        "firsts": [metric.first_step for metric in shown],
        "widths": [metric.width(max_points) for metric in shown],
    }
    query = _ONE_ATTEMPT if run.attempt <= 1 else _NEWEST_ATTEMPT
    return [Buckets(*row) for row in session.execute(query, parameters)]
