"""Compute bootstrap intervals over prompts, and paired comparisons of two evaluations. Also used by the worker."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from service.contracts.benchmarks.dimensions import PRIMARY, SUB
from service.contracts.benchmarks.scores import RESAMPLES, Difference, Interval, Intervals, ScoreDifferences, Tally

_BLOCK = 500
"""Number of resamples computed at a time. They take a few MB for 600 prompts."""
_MICRO = len(PRIMARY) + len(SUB)
_PRIMARY = {name: column for column, name in enumerate(PRIMARY)}
_SUB = {name: column for column, name in enumerate(SUB, len(PRIMARY))}

Numbers = NDArray[np.float64]


class _Table(NamedTuple):
    """Numbers of met and of judged test points, each `[prompts, 10 primary dimensions + 27 sub-dimensions + all]`."""

    correct: Numbers
    total: Numbers


def intervals(counted: Tally, seed: int = 0, resamples: int = RESAMPLES) -> Intervals | None:
    """Compute 95% percentile intervals of every score over resampled prompts.

    Returns None if there are no prompts or resamples.
    """
    indices = list(counted.judged())
    if not indices or resamples < 1:
        return None
    table = _table(counted, indices)
    found = _percentiles(lambda weights: _accuracies(table, weights), len(indices), seed, resamples)
    return Intervals(
        resamples=resamples,
        seed=seed,
        overall=found[-1],
        micro=found[_MICRO],
        primary={name: found[column] for name, column in _PRIMARY.items()},
        sub={name: found[column] for name, column in _SUB.items()},
    )


def compare(first: Tally, second: Tally, seed: int = 0, resamples: int = RESAMPLES) -> ScoreDifferences:
    """Compute the scores of the second evaluation minus those of the first, on their common prompts.

    Both evaluations use the same resamples and must be on the same benchmark. A prompt is won by the evaluation with
    the greater share of met test points.
    """
    theirs = second.judged()
    indices = [index for index in first.judged() if index in theirs]
    a, b = _table(first, indices), _table(second, indices)
    differences = _paired(
        lambda weights: _accuracies(b, weights) - _accuracies(a, weights),
        # Comparing the integers a·d and c·b instead of the shares a/b and c/d makes ties exact.
        np.where((a.total > 0) & (b.total > 0), np.sign(b.correct * a.total - a.correct * b.total), np.nan),
        len(indices),
        seed,
        resamples,
    )
    return ScoreDifferences(
        overall=differences[-1],
        micro=differences[_MICRO],
        primary={name: differences[column] for name, column in _PRIMARY.items()},
        sub={name: differences[column] for name, column in _SUB.items()},
        prompts=len(indices),
        only_first=len(first.judged()) - len(indices),
        only_second=len(theirs) - len(indices),
        resamples=resamples,
        seed=seed,
    )


def mean_over_prompts(
    values: Sequence[Sequence[float]], seed: int = 0, resamples: int = RESAMPLES
) -> tuple[float | None, Interval | None]:
    """Compute the mean over images and its 95% bootstrap interval over prompts. `values` are grouped by prompt."""
    if not values:
        return None, None
    sums, counts = (np.array([statistic(each) for each in values], dtype=float) for statistic in (sum, len))
    (interval,) = _percentiles(lambda w: ((w @ sums) / (w @ counts))[:, None], len(values), seed, resamples)
    return float(sums.sum() / counts.sum()), interval


def compare_values(
    first: Mapping[int, Sequence[float]],
    second: Mapping[int, Sequence[float]],
    seed: int = 0,
    resamples: int = RESAMPLES,
) -> Difference:
    """Compute the second evaluation's mean over images minus the first's, on their common prompts.

    Values are grouped by prompt. Both evaluations use the same resamples. A prompt is won by the evaluation with the
    greater mean.
    """
    indices = [index for index, values in first.items() if values and second.get(index)]
    sums, counts = (
        np.array([[part(side[index]) for side in (first, second)] for index in indices], float).reshape(-1, 2)
        for part in (math.fsum, len)
    )

    def difference(weights: Numbers) -> Numbers:
        with np.errstate(invalid="ignore", divide="ignore"):
            means: Numbers = (weights @ sums) / (weights @ counts)
        return np.diff(means, axis=1)

    (found,) = _paired(difference, np.sign(np.diff(sums / counts, axis=1)), len(indices), seed, resamples)
    return found


def _paired(
    difference: Callable[[Numbers], Numbers], ahead: Numbers, prompts: int, seed: int, resamples: int
) -> list[Difference]:
    """Compute the difference in each column, with its interval, wins, losses and ties.

    Args:
        difference: Maps weights `[resamples, prompts]` to differences `[resamples, columns]`.
        ahead: The sign of each prompt's difference, `[prompts, columns or 1 fewer]`; NaN if there is no value. If there
            is one column fewer, the last column (the overall score) uses the signs of the column before it.
        prompts: Number of common prompts.
        seed: Seed of the resamples.
        resamples: Number of resamples, or 0 to compute no intervals.
    """
    values = difference(np.ones((1, prompts)))[0]
    found: Sequence[Interval | None] = [None] * len(values)
    if prompts and resamples:
        found = _percentiles(difference, prompts, seed, resamples)
    sides = [ahead[:, min(column, ahead.shape[1] - 1)] for column in range(len(values))]
    return [
        Difference(
            difference=None if np.isnan(value) else float(value),
            interval95=interval,
            wins=int((side > 0).sum()),
            losses=int((side < 0).sum()),
            ties=int((side == 0).sum()),
        )
        for value, interval, side in zip(values, found, sides, strict=True)
    ]


def _table(counted: Tally, indices: Sequence[int]) -> _Table:
    rows = {index: row for row, index in enumerate(indices)}
    correct, total = np.zeros((len(rows), _MICRO + 1)), np.zeros((len(rows), _MICRO + 1))
    for one in counted.points:
        if one.index in rows:
            for column in (_PRIMARY[one.point.primary], _SUB[one.point.dimension], _MICRO):
                correct[rows[one.index], column] += one.count.correct
                total[rows[one.index], column] += one.count.total
    return _Table(correct, total)


def _accuracies(table: _Table, weights: Numbers) -> Numbers:
    """Compute the accuracy of each column, followed by the overall score, for weights `[resamples, prompts]`.

    Values are NaN where there are no judged test points.
    """
    with np.errstate(invalid="ignore", divide="ignore"):
        accuracies = (weights @ table.correct) / (weights @ table.total)
    return np.column_stack([accuracies, accuracies[:, : len(PRIMARY)].mean(axis=1)])


def _percentiles(
    statistic: Callable[[Numbers], Numbers], prompts: int, seed: int, resamples: int
) -> list[Interval | None]:
    """Return the middle 95% of each column over the resamples, or None for columns that have no values."""
    generator = np.random.default_rng(seed)
    blocks = [min(_BLOCK, resamples - start) for start in range(0, resamples, _BLOCK)]
    even = np.full(prompts, 1 / prompts)
    values = np.concatenate([statistic(generator.multinomial(prompts, even, size).astype(float)) for size in blocks])
    known = [column[~np.isnan(column)] for column in values.T]
    return [tuple(np.quantile(column, [0.025, 0.975]).tolist()) if len(column) else None for column in known]
