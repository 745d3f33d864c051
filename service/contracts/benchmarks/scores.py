"""Scores: counts by test point, pooled by dimension, and the mean of the ten primary dimensions."""

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import NamedTuple

from pydantic import Field

from service.contracts.base import Contract
from service.contracts.benchmarks.data import Benchmark, Point
from service.contracts.benchmarks.dimensions import PRIMARY, SUB, primary_of
from service.contracts.benchmarks.judge_answers import Failure
from service.contracts.benchmarks.results import Answer

RESAMPLES = 2000
"""Default number of bootstrap resamples."""
Interval = tuple[float, float]


class Accuracy(Contract):
    """The share of test points that are met, pooled over images and prompts."""

    correct: int = Field(description="Number of test points met.")
    total: int = Field(description="Number of test points judged, counted once for each image with a readable answer.")
    accuracy: float | None = Field(description="correct / total; null if total is 0.")
    interval95: Interval | None = Field(
        None, description="95% bootstrap interval over prompts; the Wilson score interval if its width would be 0."
    )
    failures: int | None = Field(
        None, description="Number of test points not judged because the answer about the image is unreadable."
    )


class PointScore(Contract):
    """The counts of one test point over the images of its prompt."""

    index: int = Field(description="Index of the prompt.")
    position: int = Field(description="Position in the prompt's list of test points, from 0.")
    dimension: str
    correct: int
    total: int
    failures: int


class Scores(Contract):
    """The scores of a model on a benchmark, as judged by one judge."""

    overall: float | None = Field(
        description="Unweighted mean of the ten primary accuracies; null if one of them is null."
    )
    overall_interval95: Interval | None = Field(None, description="95% bootstrap interval over prompts.")
    micro: Accuracy = Field(description="Accuracy over all test points with equal weight.")
    primary: dict[str, Accuracy] = Field(description="Accuracies by primary dimension.")
    sub: dict[str, Accuracy] = Field(description="Accuracies by sub-dimension.")
    prompts: int | None = Field(None, description="Number of prompts with a readable answer.")
    images: int | None = Field(None, description="Number of images with a readable answer.")
    failed_answers: int | None = Field(None, description="Number of images with an unreadable answer.")
    failures: dict[str, int] | None = Field(None, description="Number of unreadable answers by reason.")
    missing_images: int | None = Field(
        None, description="Number of missing answers, compared with the prompt that has the most answers."
    )
    recovered: int | None = Field(
        None, description="Number of answers whose scores are missing in the results file and were read from the text."
    )
    resamples: int | None = Field(None, description="Number of bootstrap resamples.")
    seed: int | None = Field(None, description="Bootstrap seed.")
    points: tuple[PointScore, ...] | None = None


class Difference(Contract):
    """The second evaluation minus the first, over the prompts that both have."""

    difference: float | None = Field(description="Difference of the means; null if one of them is undefined.")
    interval95: Interval | None = Field(None, description="95% paired bootstrap interval over prompts.")
    wins: int = Field(description="Number of prompts on which the second evaluation is better.")
    losses: int = Field(description="Number of prompts on which the first evaluation is better.")
    ties: int


class ScoreDifferences(Contract):
    """A comparison of two evaluations on the same benchmark, paired by prompt."""

    overall: Difference
    micro: Difference
    primary: dict[str, Difference]
    sub: dict[str, Difference]
    prompts: int = Field(description="Number of prompts with judged images in both evaluations.")
    only_first: int = Field(
        description="Number of prompts omitted because only the first evaluation has judged images."
    )
    only_second: int = Field(
        description="Number of prompts omitted because only the second evaluation has judged images."
    )
    resamples: int
    seed: int


@dataclass
class Count:
    """Counts of test points met, judged and not judged, over images."""

    correct: int = 0
    total: int = 0
    failures: int = 0

    def add(self, other: "Count") -> None:
        """Add the counts of `other`."""
        self.correct += other.correct
        self.total += other.total
        self.failures += other.failures


@dataclass(frozen=True)
class Counted:
    """A test point and its counts."""

    index: int
    position: int
    point: Point
    count: Count


@dataclass
class Tally:
    """The counts of all test points in benchmark order, including test points without answers."""

    points: list[Counted]
    reasons: Counter[Failure] = field(default_factory=Counter)
    images: int = 0
    recovered: int = 0
    answers: Counter[int] = field(default_factory=Counter)
    """Number of answers by prompt index, including unreadable answers."""

    def judged(self) -> dict[int, list[Counted]]:
        """Return the test points by prompt index, for prompts with a readable answer."""
        found: dict[int, list[Counted]] = defaultdict(list)
        for counted in self.points:
            if counted.count.total:
                found[counted.index].append(counted)
        return dict(found)


class Intervals(NamedTuple):
    """95% bootstrap intervals; an interval is None if undefined."""

    resamples: int | None = None
    seed: int | None = None
    overall: Interval | None = None
    micro: Interval | None = None
    primary: Mapping[str, Interval | None] = MappingProxyType({})
    sub: Mapping[str, Interval | None] = MappingProxyType({})


def tally(benchmark: Benchmark, answers: Iterable[Answer]) -> Tally:
    """Count the answers by test point. An unreadable answer counts as a failure for each test point of its prompt."""
    by_prompt = {
        prompt.index: [Counted(prompt.index, position, point, Count()) for position, point in enumerate(prompt.points)]
        for prompt in benchmark.prompts
    }
    result = Tally([counted for points in by_prompt.values() for counted in points])
    for answer in answers:
        points, verdict = by_prompt[answer.index], answer.verdict
        result.answers[answer.index] += 1
        result.recovered += answer.recovered
        if verdict.scores is None:
            result.reasons[verdict.failure or Failure.NO_ANSWER] += 1
            for counted in points:
                counted.count.failures += 1
            continue
        result.images += 1
        for counted, score in zip(points, verdict.scores, strict=True):
            counted.count.add(Count(score, 1))
    return result


def scores(counted: Tally, intervals: Intervals | None = None, points: bool = False) -> Scores:
    """Compute the scores from a tally.

    `intervals` are included if given, and the counts of every test point if `points` is true.
    """
    summary = _scores(((one.point.dimension, one.count) for one in counted.points), intervals, with_failures=True)
    max_answers = max(counted.answers.values(), default=0)
    prompts = {one.index for one in counted.points}
    by_point = (
        PointScore(index=one.index, position=one.position, dimension=one.point.dimension, **vars(one.count))
        for one in counted.points
    )
    return summary.model_copy(
        update={
            "prompts": len(counted.judged()),
            "images": counted.images,
            "failed_answers": counted.reasons.total(),
            "failures": {str(reason): number for reason, number in sorted(counted.reasons.items())},
            "missing_images": max_answers * len(prompts) - counted.answers.total(),
            "recovered": counted.recovered,
            "points": tuple(by_point) if points else None,
        }
    )


def scores_of_counts(sub: Mapping[str, tuple[int, int]]) -> Scores:
    """Compute the scores from the counts by sub-dimension. Prompt and failure counts are left null."""
    return _scores(((name, Count(*counts)) for name, counts in sub.items()), None, with_failures=False)


def mean_of_ten(values: Mapping[str, float | None]) -> float | None:
    """Return the overall score: the unweighted mean of the ten primary dimensions, or None if one of them is None."""
    ten = [values.get(name) for name in PRIMARY]
    known = [value for value in ten if value is not None]
    return math.fsum(known) / len(ten) if len(known) == len(ten) else None


def wilson(correct: int, total: int) -> Interval:
    """Return the 95% Wilson score interval of a share (E. B. Wilson, JASA 22, 1927). `total` is at least 1."""
    z = 1.959964  # the 97.5% quantile of the normal distribution
    share, scale = correct / total, 1 + z * z / total
    center = (share + z * z / (2 * total)) / scale
    half = z * math.sqrt(share * (1 - share) / total + (z / (2 * total)) ** 2) / scale
    return (0.0 if correct == 0 else center - half, 1.0 if correct == total else center + half)


def _scores(counts: Iterable[tuple[str, Count]], intervals: Intervals | None, with_failures: bool) -> Scores:
    """Compute the scores from pairs of sub-dimension and counts."""
    intervals = intervals or Intervals()
    sub, primary, micro = {name: Count() for name in SUB}, {name: Count() for name in PRIMARY}, Count()
    for name, count in counts:
        for total in (sub[name], primary[primary_of(name)], micro):
            total.add(count)

    def accuracy(count: Count, interval: Interval | None) -> Accuracy:
        if count.total and interval is not None and interval[0] == interval[1]:  # all prompts have the same share
            interval = wilson(count.correct, count.total)
        return Accuracy(
            correct=count.correct,
            total=count.total,
            accuracy=count.correct / count.total if count.total else None,
            interval95=interval,
            failures=count.failures if with_failures else None,
        )

    ten = {name: accuracy(count, intervals.primary.get(name)) for name, count in primary.items()}
    return Scores(
        overall=mean_of_ten({name: one.accuracy for name, one in ten.items()}),
        overall_interval95=intervals.overall,
        micro=accuracy(micro, intervals.micro),
        primary=ten,
        sub={name: accuracy(count, intervals.sub.get(name)) for name, count in sub.items()},
        resamples=intervals.resamples,
        seed=intervals.seed,
    )
