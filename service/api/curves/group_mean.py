"""The mean of a group of runs, and the band around it: pure functions of numbers."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from service.api.curves.comparison_schemas import Band

Numbers = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Line:
    """A run's values [points] over strictly increasing x [points]. A value that was not finite is NaN."""

    x: Numbers
    values: Numbers


@dataclass(frozen=True)
class Mean:
    """The mean [points] of a group and its band [points], and how many runs [points] each is of; NaN: there is none."""

    values: Numbers
    low: Numbers
    high: Numbers
    n: npt.NDArray[np.int64]


def advancing(points: Sequence[tuple[float, float | None]]) -> Line:
    """The points (x, value) that lie to the right of all before them.

    The others are what an earlier attempt did later than a newer one, which has not come so far yet.
    """
    x, values = (np.array(side, np.float64) for side in zip(*points, strict=True))
    before = np.concatenate([[-np.inf], np.maximum.accumulate(x)[:-1]])
    return Line(x[x > before], values[x > before])


def joined(lines: Sequence[Line]) -> tuple[Numbers, Numbers]:
    """Every x [points] that a line has, and the lines' values [lines, points] there, NaN where a line has none."""
    grid = np.unique(np.concatenate([line.x for line in lines]))
    values = np.full((len(lines), len(grid)), np.nan)
    for row, line in zip(values, lines, strict=True):
        row[np.searchsorted(grid, line.x)] = line.values
    return grid, values


def resampled(lines: Sequence[Line], max_points: int) -> tuple[Numbers, Numbers]:
    """A common grid [points] and the lines' values [lines, points] on it, linear between the finite ones.

    The grid lies where all lines are defined: every x that one of them has there, or `max_points` evenly spaced ones
    if these are more. So lines with the same x keep their values exactly. It is empty where lines have no x in common.
    """
    finite = [Line(line.x[known], line.values[known]) for line in lines for known in [np.isfinite(line.values)]]
    if not all(len(line.x) for line in finite):
        return np.empty(0), np.empty((len(lines), 0))
    first, last = max(line.x[0] for line in finite), min(line.x[-1] for line in finite)
    grid = np.unique(np.concatenate([line.x for line in finite]))
    grid = grid[(first <= grid) & (grid <= last)]
    if len(grid) > max_points:
        grid = np.unique(np.linspace(first, last, max_points))
    # Clipped: the last bit of an interpolation may lie outside of what it lies between.
    rows = [np.clip(np.interp(grid, one.x, one.values), one.values.min(), one.values.max()) for one in finite]
    return grid, np.stack(rows)


def mean(values: Numbers, band: Band) -> Mean:
    """The mean of values [runs, points] over the runs that have one, and its band where these are two or more."""
    ordered = np.sort(values, axis=0)  # sums then do not depend on the order of runs; NaN comes last
    n = np.isfinite(ordered).sum(axis=0)
    least, greatest = ordered[0], np.fmax.reduce(ordered, axis=0)
    # From the least value on: the mean of equal ones is then exactly theirs.
    means = np.minimum(least + np.nansum(ordered - least, axis=0) / np.maximum(n, 1), greatest)
    if band == "minmax":
        low, high = least, greatest
    else:
        deviation = np.sqrt(np.nansum((ordered - means) ** 2, axis=0) / np.maximum(n - 1, 1))
        half = deviation
        if band == "ci95":
            half = deviation / np.sqrt(np.maximum(n, 1)) * np.array([student_t(max(count - 1, 1)) for count in n])
        low, high = means - half, means + half
    alone = (n < 2) | (band == "none")
    return Mean(means, np.where(alone, np.nan, low), np.where(alone, np.nan, high), n)


@lru_cache
def student_t(freedom: int) -> float:
    """The 97.5% quantile of Student's t with so many degrees of freedom: |t| lies below it in 95% of cases."""
    low, high = 0.0, math.pi / 2
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if _within(middle, freedom) < 0.95 else (low, middle)
    return math.tan(low) * math.sqrt(freedom)


def _within(angle: float, freedom: int) -> float:
    """P(|t| ≤ √freedom · tan angle), in closed form (Abramowitz and Stegun, 26.7.3 and 26.7.4)."""
    odd = freedom % 2
    cosine, total = math.cos(angle), 0.0
    term = cosine if odd else 1.0
    for power in range(odd, freedom - 1, 2):
        total += term
        term *= (power + 1) / (power + 2) * cosine**2
    whole = math.sin(angle) * total
    return 2 / math.pi * (angle + whole) if odd else whole
