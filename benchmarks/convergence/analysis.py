"""What curves say: smoothing, time to a target, stability, and intervals. Pure functions on numbers."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

WINDOW = 3
"""Evaluations in a smoothed value."""
RESAMPLES = 10_000


def smooth(values: Sequence[float], window: int = WINDOW) -> Floats:
    """Trailing means over the last `window` values: what is known at each point. The first ones are over fewer."""
    return np.array([np.mean(values[max(0, end - window) : end]) for end in range(1, len(values) + 1)])


def time_to(target: float, times: Sequence[float], values: Sequence[float]) -> float | None:
    """When the curve first reaches `target`, along straight lines between its points; None if never."""
    for index, value in enumerate(values):
        if value >= target:
            if index == 0:
                return times[0]
            share = (target - values[index - 1]) / (value - values[index - 1])
            return times[index - 1] + share * (times[index] - times[index - 1])
    return None


def value_at(time: float, times: Sequence[float], values: Sequence[float]) -> float | None:
    """The curve's value at `time`, along straight lines between its points; None after its end."""
    # Budgets are met to the nearest step: what ends half a step early has an end all the same.
    slack = 0.02 * times[-1]
    return float(np.interp(time, times, values)) if time <= times[-1] + slack else None


def roughness(values: Sequence[float]) -> float:
    """Standard deviation of second differences over √6: the noise of a curve around any straight trend."""
    return float(np.diff(values, n=2).std() / np.sqrt(6)) if len(values) > 3 else float("nan")


def largest_drop(values: Sequence[float]) -> float:
    """How far the curve ever falls under the best that it had reached before."""
    return float((np.maximum.accumulate(values) - values).max())


def pairs_interval(differences: Floats) -> tuple[float, float]:
    """95% percentile interval of the mean of `differences` [seeds, pairs] over resampled pairs, the seeds as they are.

    A pair of prompt and noise is the same for every seed, so it is drawn for all of them at once.
    """
    means = differences.mean(axis=0)
    generator = np.random.default_rng(0)
    drawn = [means[generator.integers(0, len(means), len(means))].mean() for _ in range(RESAMPLES)]
    return _interval(drawn)


def seeds_interval(differences: Floats) -> tuple[float, float]:
    """95% percentile interval of the mean of `differences` [seeds, pairs] over resampled seeds and, of each, pairs."""
    seeds, pairs = differences.shape
    generator = np.random.default_rng(0)
    drawn = []
    for _ in range(RESAMPLES):
        rows = differences[generator.integers(0, seeds, seeds)]
        drawn.append(rows[:, generator.integers(0, pairs, pairs)].mean())
    return _interval(drawn)


def _interval(drawn: Sequence[float]) -> tuple[float, float]:
    low, high = np.quantile(drawn, [0.025, 0.975])
    return float(low), float(high)
