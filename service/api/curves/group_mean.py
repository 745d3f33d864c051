"""Compute the mean and band of a group of runs, with pure functions of arrays."""

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
    """A run's values [points] over strictly increasing x [points]. Values that are not finite are NaN."""

    x: Numbers
    values: Numbers


@dataclass(frozen=True)
class Mean:
    """The mean of a group, its band, and the number of runs with a value, each [points].

    The mean and band are NaN where they are undefined.
    """

    values: Numbers
    low: Numbers
    high: Numbers
    n: npt.NDArray[np.int64]


def increasing(points: Sequence[tuple[float, float | None]]) -> Line:
    """Keep the points (x, value) whose x is greater than the x of all preceding points.

    The dropped points come from an earlier attempt: the newer attempt has not yet reached their steps, but it has
    already passed their x.
    """
    x, values = np.array(points, np.float64).T
    before = np.concatenate([[-np.inf], np.maximum.accumulate(x)[:-1]])
    return Line(x[x > before], values[x > before])


def joined(lines: Sequence[Line]) -> tuple[Numbers, Numbers]:
    """Return the union of all x [points] and the values [lines, points] there, NaN where a line has no value."""
    grid = np.unique(np.concatenate([line.x for line in lines]))
    values = np.full((len(lines), len(grid)), np.nan)
    for row, line in zip(values, lines, strict=True):
        row[np.searchsorted(grid, line.x)] = line.values
    return grid, values


def resampled(lines: Sequence[Line], max_points: int) -> tuple[Numbers, Numbers]:
    """Interpolate lines linearly between finite values; return a common grid [points] and values [lines, points].

    The grid covers the range in which all lines are defined. It consists of the x of all lines in this range, or of
    `max_points` evenly spaced points if there are more x than that. Lines with equal x keep their exact values. The
    grid is empty if the lines have no common range.
    """
    finite = [Line(line.x[known], line.values[known]) for line in lines for known in [np.isfinite(line.values)]]
    if not all(len(line.x) for line in finite):
        return np.empty(0), np.empty((len(lines), 0))
    first, last = max(line.x[0] for line in finite), min(line.x[-1] for line in finite)
    grid = np.unique(np.concatenate([line.x for line in finite]))
    grid = grid[(first <= grid) & (grid <= last)]
    if len(grid) > max_points:
        grid = np.unique(np.linspace(first, last, max_points))
    # Rounding can move an interpolated value outside the range of the original values.
    rows = [np.interp(grid, line.x, line.values).clip(line.values.min(), line.values.max()) for line in finite]
    return grid, np.stack(rows)


def mean(values: Numbers, band: Band) -> Mean:
    """Compute the mean of values [runs, points] over the runs that have a value.

    The band is defined where two or more runs have a value.
    """
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
    """Compute the 97.5% quantile of Student's t distribution with `freedom` degrees of freedom.

    The service does not depend on SciPy.
    """
    low, high = 0.0, math.pi / 2
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if _within(middle, freedom) < 0.95 else (low, middle)
    return math.tan(low) * math.sqrt(freedom)


def _within(angle: float, freedom: int) -> float:
    """Compute P(|t| ≤ √freedom · tan angle) in closed form (Abramowitz and Stegun, 26.7.3 and 26.7.4)."""
    odd = freedom % 2
    cosine, total = math.cos(angle), 0.0
    term = cosine if odd else 1.0
    for power in range(odd, freedom - 1, 2):
        total += term
        term *= (power + 1) / (power + 2) * cosine**2
    product = math.sin(angle) * total
    return 2 / math.pi * (angle + product) if odd else product
