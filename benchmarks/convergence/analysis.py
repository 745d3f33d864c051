"""Analysis of curves: smoothing, time to a target, stability, and intervals."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

WINDOW = 3
"""Number of evaluations in a smoothed value."""
RESAMPLES = 10_000


def smooth(values: Sequence[float], window: int = WINDOW) -> Floats:
    """Trailing means over the last `window` values; the first means are over fewer values."""
    return np.array([np.mean(values[max(0, end - window) : end]) for end in range(1, len(values) + 1)])


def time_to(target: float, times: Sequence[float], values: Sequence[float]) -> float | None:
    """Time at which the linearly interpolated curve first reaches `target`; None if it never does."""
    for index, value in enumerate(values):
        if value >= target:
            if index == 0:
                return times[0]
            share = (target - values[index - 1]) / (value - values[index - 1])
            return times[index - 1] + share * (times[index] - times[index - 1])
    return None


def value_at(time: float, times: Sequence[float], values: Sequence[float]) -> float | None:
    """Value of the linearly interpolated curve at `time`; None after its end."""
    # Runs end at the step nearest to their budget, so a curve may end half a step before `time`.
    slack = 0.02 * times[-1]
    return float(np.interp(time, times, values)) if time <= times[-1] + slack else None


def roughness(values: Sequence[float]) -> float:
    """Standard deviation of second differences divided by √6: the noise of a curve around a linear trend."""
    return float(np.diff(values, n=2).std() / np.sqrt(6)) if len(values) > 3 else float("nan")


def largest_drop(values: Sequence[float]) -> float:
    """Largest difference between the best value so far and the current value."""
    return float((np.maximum.accumulate(values) - values).max())


def pairs_interval(differences: Floats) -> tuple[float, float]:
    """95% bootstrap percentile interval of the mean of `differences` [seeds, pairs], resampling pairs only.

    A pair of prompt and noise is the same for every seed, so all seeds use the same resampled pairs.
    """
    means = differences.mean(axis=0)
    generator = np.random.default_rng(0)
    resampled = [means[generator.integers(0, len(means), len(means))].mean() for _ in range(RESAMPLES)]
    return _interval(resampled)


def seeds_interval(differences: Floats) -> tuple[float, float]:
    """95% bootstrap percentile interval of the mean of `differences` [seeds, pairs], resampling seeds and pairs."""
    seeds, pairs = differences.shape
    generator = np.random.default_rng(0)
    resampled = []
    for _ in range(RESAMPLES):
        rows = differences[generator.integers(0, seeds, seeds)]
        resampled.append(rows[:, generator.integers(0, pairs, pairs)].mean())
    return _interval(resampled)


def _interval(means: Sequence[float]) -> tuple[float, float]:
    low, high = np.quantile(means, [0.025, 0.975])
    return float(low), float(high)
