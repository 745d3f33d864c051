"""Scores of answers: counts by test point, pooled by dimension, and the mean of the ten primary dimensions."""

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
from service.contracts.benchmarks.judging import Failure
from service.contracts.benchmarks.results import Answer

RESAMPLES = 2000
"""Default number of bootstrap resamples."""
Interval = tuple[float, float]


class Accuracy(Contract):
    """Share of test points met, over images and prompts."""

    correct: int = Field(description="Test points met.")
    total: int = Field(description="Test points judged, once for each image with a readable answer.")
    accuracy: float | None = Field(description="correct / total; null if total is 0.")
    interval95: Interval | None = Field(None, description="95% bootstrap interval over prompts.")
    failures: int | None = Field(
        None, description="Test points not judged, since the answer on their image is unreadable."
    )


class PointScore(Contract):
    """A test point over the images of its prompt."""

    index: int = Field(description="Number of the prompt.")
    position: int = Field(description="Position in the prompt's list of test points, from 0.")
    dimension: str
    correct: int
    total: int
    failures: int


class Scores(Contract):
    """Scores of a model on a benchmark by one judge."""

    overall: float | None = Field(
        description="Unweighted mean of the ten primary accuracies; null if one of them is null."
    )
    overall_interval95: Interval | None = Field(None, description="95% bootstrap interval over prompts.")
    micro: Accuracy = Field(description="Over all test points with equal weight.")
    primary: dict[str, Accuracy] = Field(description="By primary dimension.")
    sub: dict[str, Accuracy] = Field(description="By sub-dimension.")
    prompts: int | None = Field(None, description="Prompts with a readable answer.")
    images: int | None = Field(None, description="Images with a readable answer.")
    failed_answers: int | None = Field(None, description="Images with an unreadable answer.")
    failures: dict[str, int] | None = Field(None, description="Unreadable answers by reason.")
    missing_images: int | None = Field(
        None, description="Images without an answer, relative to the prompt with the most answers."
    )
    recovered: int | None = Field(
        None, description="Answers that the official script lost and that were recovered from the judge's text."
    )
    resamples: int | None = Field(None, description="Bootstrap resamples.")
    seed: int | None = Field(None, description="Bootstrap seed.")
    points: tuple[PointScore, ...] | None = None


class Difference(Contract):
    """Second evaluation minus first, over the prompts of both."""

    difference: float | None = Field(description="Difference of the means; null if one of them is undefined.")
    interval95: Interval | None = Field(None, description="95% paired bootstrap interval over prompts.")
    wins: int = Field(description="Prompts where the second is better.")
    losses: int = Field(description="Prompts where the first is better.")
    ties: int


class ScoreDifferences(Contract):
    """Two evaluations of one benchmark, prompt by prompt."""

    overall: Difference
    micro: Difference
    primary: dict[str, Difference]
    sub: dict[str, Difference]
    prompts: int = Field(description="Prompts with judged images in both.")
    only_first: int = Field(description="Prompts omitted, with no judged image in the second.")
    only_second: int = Field(description="Prompts omitted, with no judged image in the first.")
    resamples: int
    seed: int


@dataclass
class Count:
    """Counts of test points over images."""

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
    """A test point of a prompt with its counts."""

    index: int
    position: int
    point: Point
    count: Count


@dataclass
class Tally:
    """Counts of all test points, in the benchmark's order, including those without answers."""

    points: list[Counted]
    reasons: Counter[Failure] = field(default_factory=Counter)
    images: int = 0
    recovered: int = 0
    answers: Counter[int] = field(default_factory=Counter)
    """Answers by prompt, including unreadable ones."""

    def judged(self) -> dict[int, list[Counted]]:
        """Test points by prompt, of prompts with a readable answer."""
        found: dict[int, list[Counted]] = defaultdict(list)
        for counted in self.points:
            if counted.count.total:
                found[counted.index].append(counted)
        return dict(found)


class Intervals(NamedTuple):
    """95% bootstrap intervals; None where undefined."""

    resamples: int | None = None
    seed: int | None = None
    overall: Interval | None = None
    micro: Interval | None = None
    primary: Mapping[str, Interval | None] = MappingProxyType({})
    sub: Mapping[str, Interval | None] = MappingProxyType({})


def tally(benchmark: Benchmark, answers: Iterable[Answer]) -> Tally:
    """Count answers on prompts of the benchmark; an unreadable answer is a failure of each of its test points."""
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
    """The scores of a tally, with intervals if given and the counts of every test point if requested."""
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
    """The scores of counts by sub-dimension, without prompts and failures."""
    return _scores(((name, Count(*counts)) for name, counts in sub.items()), None, with_failures=False)


def mean_of_ten(values: Mapping[str, float | None]) -> float | None:
    """The overall score: the unweighted mean over the ten primary dimensions; None if one of them is None."""
    ten = [values.get(name) for name in PRIMARY]
    known = [value for value in ten if value is not None]
    return math.fsum(known) / len(ten) if len(known) == len(ten) else None


def _scores(counts: Iterable[tuple[str, Count]], intervals: Intervals | None, with_failures: bool) -> Scores:
    """The scores of counts, each with its sub-dimension."""
    intervals = intervals or Intervals()
    sub, primary, micro = {name: Count() for name in SUB}, {name: Count() for name in PRIMARY}, Count()
    for name, count in counts:
        for total in (sub[name], primary[primary_of(name)], micro):
            total.add(count)

    def accuracy(count: Count, interval: Interval | None) -> Accuracy:
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
