"""Bootstrap intervals over prompts, and two evaluations compared prompt by prompt. The worker shares this module."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from service.contracts.benchmarks.dimensions import PRIMARY, SUB
from service.contracts.benchmarks.scores import RESAMPLES, Difference, Interval, Intervals, ScoreDifferences, Tally

_BLOCK = 500
"""Resamples at once: a few MB for 600 prompts."""
_TEN, _MICRO = slice(0, len(PRIMARY)), len(PRIMARY) + len(SUB)

Numbers = NDArray[np.float64]


class _Table(NamedTuple):
    """Test points met and judged, `[prompts, ten primary + 27 sub-dimensions + all]`."""

    correct: Numbers
    total: Numbers


def intervals(counted: Tally, seed: int = 0, resamples: int = RESAMPLES) -> Intervals | None:
    """Percentile intervals of every score over resamples of the prompts (seeded). None without prompts or resamples."""
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
        primary=dict(zip(PRIMARY, found, strict=False)),
        sub=dict(zip(SUB, found[len(PRIMARY) :], strict=False)),
    )


def compare(first: Tally, second: Tally, seed: int = 0, resamples: int = RESAMPLES) -> ScoreDifferences:
    """The second evaluation less the first, on the prompts that both have; the same resamples for both.

    Both must be of the same benchmark. A prompt is won by whoever met the greater share of its test points.
    """
    theirs = second.judged()
    indices = [index for index in first.judged() if index in theirs]
    a, b = _table(first, indices), _table(second, indices)

    def difference(weights: Numbers) -> Numbers:
        return _accuracies(b, weights) - _accuracies(a, weights)

    whole = difference(np.ones((1, len(indices))))[0]
    found: Sequence[Interval | None] = [None] * len(whole)
    if indices and resamples:
        found = _percentiles(difference, len(indices), seed, resamples)
    # Shares a/b and c/d compare as a·d and c·b do, which are whole numbers: ties are ties.
    ahead = np.sign(b.correct * a.total - a.correct * b.total)
    both = (a.total > 0) & (b.total > 0)

    def told(column: int) -> Difference:
        counted = min(column, _MICRO)  # overall wins where all test points together do
        sides, value = ahead[both[:, counted], counted], whole[column]
        return Difference(
            difference=None if np.isnan(value) else float(value),
            interval95=found[column],
            wins=int((sides > 0).sum()),
            losses=int((sides < 0).sum()),
            ties=int((sides == 0).sum()),
        )

    return ScoreDifferences(
        overall=told(_MICRO + 1),
        micro=told(_MICRO),
        primary={name: told(column) for column, name in enumerate(PRIMARY)},
        sub={name: told(column) for column, name in enumerate(SUB, len(PRIMARY))},
        prompts=len(indices),
        only_first=len(first.judged()) - len(indices),
        only_second=len(theirs) - len(indices),
        resamples=resamples,
        seed=seed,
    )


def mean_over_prompts(
    values: Sequence[Sequence[float]], seed: int = 0, resamples: int = RESAMPLES
) -> tuple[float | None, Interval | None]:
    """The mean over images, whose values come by prompt, and its 95% bootstrap interval over prompts (seeded)."""
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
    """The second's mean over images less the first's, on the prompts that both have values of.

    Values are by prompt. A prompt is won by the greater mean; the same resamples of the prompts for both.
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

    found: Sequence[Interval | None] = [None]
    if indices and resamples:
        found = _percentiles(difference, len(indices), seed, resamples)
    ahead = np.sign(np.diff(sums / counts, axis=1)) if indices else np.zeros((0, 1))
    return Difference(
        difference=float(difference(np.ones((1, len(indices))))[0, 0]) if indices else None,
        interval95=found[0],
        wins=int((ahead > 0).sum()),
        losses=int((ahead < 0).sum()),
        ties=int((ahead == 0).sum()),
    )


def _table(counted: Tally, indices: Sequence[int]) -> _Table:
    rows = {index: row for row, index in enumerate(indices)}
    primary = {name: column for column, name in enumerate(PRIMARY)}
    sub = {name: column for column, name in enumerate(SUB, len(PRIMARY))}
    correct, total = np.zeros((len(rows), _MICRO + 1)), np.zeros((len(rows), _MICRO + 1))
    for one in counted.points:
        if one.index in rows:
            for column in (primary[one.point.primary], sub[one.point.dimension], _MICRO):
                correct[rows[one.index], column] += one.count.correct
                total[rows[one.index], column] += one.count.total
    return _Table(correct, total)


def _accuracies(table: _Table, weights: Numbers) -> Numbers:
    """Accuracies by column, then overall, of each weighting of the prompts `[resamples, prompts]`; NaN where nothing
    was judged."""
    with np.errstate(invalid="ignore", divide="ignore"):
        accuracies = (weights @ table.correct) / (weights @ table.total)
    return np.column_stack([accuracies, accuracies[:, _TEN].mean(axis=1)])


def _percentiles(
    statistic: Callable[[Numbers], Numbers], prompts: int, seed: int, resamples: int
) -> list[Interval | None]:
    """The middle 95% of each column over resamples; None where no resample had anything judged."""
    generator = np.random.default_rng(seed)
    blocks = [min(_BLOCK, resamples - begun) for begun in range(0, resamples, _BLOCK)]
    even = np.full(prompts, 1 / prompts)
    values = np.concatenate([statistic(generator.multinomial(prompts, even, size).astype(float)) for size in blocks])
    known = [column[~np.isnan(column)] for column in values.T]
    return [_middle(column) if len(column) else None for column in known]


def _middle(values: Numbers) -> Interval:
    low, high = np.quantile(values, [0.025, 0.975])
    return float(low), float(high)
