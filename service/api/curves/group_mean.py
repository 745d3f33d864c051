"""Mean over a group of runs with a band, as pure functions of arrays."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from service.api.curves.schemas import Band

Numbers = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Line:
    """Values [points] of a run over strictly increasing x [points]; NaN where a value is not finite."""

    x: Numbers
    values: Numbers


@dataclass(frozen=True)
class Mean:
    """Mean of a group, its band, and the number of runs with a value, each [points]; NaN where undefined."""

    values: Numbers
    low: Numbers
    high: Numbers
    n: npt.NDArray[np.int64]


def increasing(points: Sequence[tuple[float, float | None]]) -> Line:
    """The points (x, value) whose x is greater than that of all points before.

    Other points come from an earlier attempt, at a later time than the newer attempt that has overtaken it.
    """
    x, values = np.array(points, np.float64).T
    before = np.concatenate([[-np.inf], np.maximum.accumulate(x)[:-1]])
    return Line(x[x > before], values[x > before])


def joined(lines: Sequence[Line]) -> tuple[Numbers, Numbers]:
    """The union of all x [points], and the values [lines, points] there; NaN where a line has no such x."""
    grid = np.unique(np.concatenate([line.x for line in lines]))
    values = np.full((len(lines), len(grid)), np.nan)
    for row, line in zip(values, lines, strict=True):
        row[np.searchsorted(grid, line.x)] = line.values
    return grid, values


def resampled(lines: Sequence[Line], max_points: int) -> tuple[Numbers, Numbers]:
    """A common grid [points], and the values [lines, points] on it, interpolated linearly between finite values.

    The grid covers the range where all lines are defined. It consists of every x of any line there, or of `max_points`
    evenly spaced points if there are more. Lines with equal x keep their values exactly. The grid is empty if the
    lines have no range in common.
    """
    finite = [Line(line.x[known], line.values[known]) for line in lines for known in [np.isfinite(line.values)]]
    if not all(len(line.x) for line in finite):
        return np.empty(0), np.empty((len(lines), 0))
    first, last = max(line.x[0] for line in finite), min(line.x[-1] for line in finite)
    grid = np.unique(np.concatenate([line.x for line in finite]))
    grid = grid[(first <= grid) & (grid <= last)]
    if len(grid) > max_points:
        grid = np.unique(np.linspace(first, last, max_points))
    # Rounding can put an interpolated value outside of the range of the values.
    rows = [np.interp(grid, line.x, line.values).clip(line.values.min(), line.values.max()) for line in finite]
    return grid, np.stack(rows)


def mean(values: Numbers, band: Band) -> Mean:
    """The mean of values [runs, points] over the runs with a value, and a band where there are two or more."""
    ordered = np.sort(values, axis=0)  # makes sums independent of the order of runs; NaN comes last
    n = np.isfinite(ordered).sum(axis=0)
    least, greatest = ordered[0], np.fmax.reduce(ordered, axis=0)
    # Summing differences from the minimum makes the mean of equal values exact.
    means = np.minimum(least + np.nansum(ordered - least, axis=0) / np.maximum(n, 1), greatest)
    if band == "minmax":
        low, high = least, greatest
    else:
        deviation = np.sqrt(np.nansum((ordered - means) ** 2, axis=0) / np.maximum(n - 1, 1))
        half = deviation
        if band == "ci95":
            half = deviation / np.sqrt(np.maximum(n, 1)) * np.array([student_t(max(count - 1, 1)) for count in n])
        low, high = means - half, means + half
    no_band = (n < 2) | (band == "none")
    return Mean(means, np.where(no_band, np.nan, low), np.where(no_band, np.nan, high), n)


@lru_cache
def student_t(freedom: int) -> float:
    """The 97.5% quantile of Student's t distribution. (SciPy is not a dependency of the service.)"""
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
    product = math.sin(angle) * total
    return 2 / math.pi * (angle + product) if odd else product
