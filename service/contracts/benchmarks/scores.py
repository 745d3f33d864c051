"""Scores from answers: counted by test point, pooled by dimension, and the mean of the ten."""

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from pydantic import Field

from service.contracts.base import Contract
from service.contracts.benchmarks.data import Benchmark, Point
from service.contracts.benchmarks.dimensions import PRIMARY, SUB, primary_of
from service.contracts.benchmarks.judging import Failure
from service.contracts.benchmarks.results import Answer

RESAMPLES = 2000
"""Of a bootstrap where nobody says another number."""
Interval = tuple[float, float]


class Accuracy(Contract):
    """Test points that were met, over images and prompts."""

    correct: int = Field(description="Test points met.")
    total: int = Field(description="Test points judged: once for each image whose answer could be read.")
    accuracy: float | None = Field(description="Their share; null where none was judged.")
    interval95: Interval | None = Field(None, description="95% bootstrap interval over prompts.")
    failures: int | None = Field(
        None, description="Test points that were not judged, because the answer on their image could not be read."
    )


class PointScore(Contract):
    """A test point over the images of its prompt."""

    index: int = Field(description="The prompt's number.")
    place: int = Field(description="The test point's place in the prompt's list, from 0.")
    dimension: str
    correct: int
    total: int
    failures: int


class Scores(Contract):
    """What a model is worth on a benchmark, by one judge's answers."""

    overall: float | None = Field(
        description="Unweighted mean of the ten primary accuracies; null where one of them has nothing judged."
    )
    overall_interval95: Interval | None = Field(None, description="95% bootstrap interval over prompts.")
    micro: Accuracy = Field(description="All test points alike.")
    primary: dict[str, Accuracy] = Field(description="The ten dimensions.")
    sub: dict[str, Accuracy] = Field(description="The 27 sub-dimensions.")
    prompts: int | None = Field(None, description="Prompts with an answer that could be read.")
    images: int | None = Field(None, description="Images with one.")
    failed_answers: int | None = Field(None, description="Images whose answer could not be read.")
    failures: dict[str, int] | None = Field(None, description="Those by reason.")
    missing_images: int | None = Field(
        None, description="Images without any answer: those that prompts lack, to have as many as the one with most."
    )
    recovered: int | None = Field(
        None, description="Answers that the official script lost and that the judge's own words had."
    )
    resamples: int | None = Field(None, description="Of the bootstrap.")
    seed: int | None = Field(None, description="Of the bootstrap.")
    points: tuple[PointScore, ...] | None = None


class Difference(Contract):
    """The second evaluation less the first, over the prompts that both have."""

    difference: float | None = Field(description="Of the accuracies; null where one of the two has none.")
    interval95: Interval | None = Field(None, description="95% paired bootstrap interval over prompts.")
    wins: int = Field(description="Prompts of which the second met a greater share of the test points.")
    losses: int
    ties: int


class ScoreDifferences(Contract):
    """Two evaluations of one benchmark, prompt by prompt."""

    overall: Difference
    micro: Difference
    primary: dict[str, Difference]
    sub: dict[str, Difference]
    prompts: int = Field(description="Prompts that both have.")
    only_first: int = Field(description="Prompts left out, for the second has none of them judged.")
    only_second: int
    resamples: int
    seed: int


@dataclass
class Count:
    """One test point over images."""

    correct: int = 0
    total: int = 0
    failures: int = 0

    def add(self, other: "Count") -> None:
        """Pool another one."""
        self.correct += other.correct
        self.total += other.total
        self.failures += other.failures


@dataclass(frozen=True)
class Counted:
    """A test point of a prompt, with what was counted."""

    index: int
    place: int
    point: Point
    count: Count


@dataclass
class Tally:
    """Everything that was counted. Prompts and points come in the benchmark's order; those without answers too."""

    points: list[Counted]
    reasons: Counter[Failure] = field(default_factory=Counter)
    images: int = 0
    recovered: int = 0
    asked: Counter[int] = field(default_factory=Counter)
    """Answers by prompt, failed ones too."""

    def judged(self) -> dict[int, list[Counted]]:
        """By prompt, its points; only prompts with an answer that could be read."""
        found: dict[int, list[Counted]] = {}
        for one in self.points:
            if one.count.total:
                found.setdefault(one.index, []).append(one)
        return found


class Intervals(NamedTuple):
    """95% intervals, as far as there are any."""

    resamples: int
    seed: int
    overall: Interval | None
    micro: Interval | None
    primary: Mapping[str, Interval | None]
    sub: Mapping[str, Interval | None]


def tally(benchmark: Benchmark, answers: Iterable[Answer]) -> Tally:
    """Count answers on prompts of the benchmark; a failed one counts as such at each of its test points."""
    by_prompt = {
        prompt.index: [Counted(prompt.index, place, point, Count()) for place, point in enumerate(prompt.points)]
        for prompt in benchmark.prompts
    }
    made = Tally([one for points in by_prompt.values() for one in points])
    for answer in answers:
        points, verdict = by_prompt[answer.index], answer.verdict
        made.asked[answer.index] += 1
        made.recovered += answer.recovered
        if verdict.scores is None:
            made.reasons[verdict.failure or Failure.NO_ANSWER] += 1
            for one in points:
                one.count.failures += 1
            continue
        made.images += 1
        for one, score in zip(points, verdict.scores, strict=True):
            one.count.add(Count(score, 1))
    return made


def scores(counted: Tally, intervals: Intervals | None = None, points: bool = False) -> Scores:
    """The scores of what was counted, with its intervals, if any, and test point by test point, if asked."""
    found = _pooled((one.point.dimension, one.count) for one in counted.points)
    made = _scores(found, intervals, with_failures=True)
    most = max(counted.asked.values(), default=0)
    prompts = {one.index for one in counted.points}
    return made.model_copy(
        update={
            "prompts": len(counted.judged()),
            "images": counted.images,
            "failed_answers": counted.reasons.total(),
            "failures": {str(reason): number for reason, number in sorted(counted.reasons.items())},
            "missing_images": most * len(prompts) - counted.asked.total(),
            "recovered": counted.recovered,
            "points": tuple(_point_scores(counted)) if points else None,
        }
    )


def scores_of_counts(sub: Mapping[str, tuple[int, int]]) -> Scores:
    """The scores of bare counts by sub-dimension, which know neither prompts nor failures."""
    return _scores(_pooled((name, Count(*counts)) for name, counts in sub.items()), None, with_failures=False)


def mean_of_ten(values: Mapping[str, float | None]) -> float | None:
    """The overall score: the unweighted mean of the ten primary dimensions; None where one of them has none."""
    ten = [values.get(name) for name in PRIMARY]
    known = [value for value in ten if value is not None]
    return math.fsum(known) / len(ten) if len(known) == len(ten) else None


def _pooled(parts: Iterable[tuple[str, Count]]) -> dict[str, Count]:
    found = {name: Count() for name in SUB}
    for name, count in parts:
        found[name].add(count)
    return found


def _scores(sub: Mapping[str, Count], intervals: Intervals | None, with_failures: bool) -> Scores:
    primary, micro = {name: Count() for name in PRIMARY}, Count()
    for name, count in sub.items():
        primary[primary_of(name)].add(count)
        micro.add(count)

    def accuracy(count: Count, interval: Interval | None) -> Accuracy:
        return Accuracy(
            correct=count.correct,
            total=count.total,
            accuracy=count.correct / count.total if count.total else None,
            interval95=interval,
            failures=count.failures if with_failures else None,
        )

    ten = {n: accuracy(count, intervals.primary.get(n) if intervals else None) for n, count in primary.items()}
    return Scores(
        overall=mean_of_ten({name: one.accuracy for name, one in ten.items()}),
        overall_interval95=intervals.overall if intervals else None,
        micro=accuracy(micro, intervals.micro if intervals else None),
        primary=ten,
        sub={n: accuracy(count, intervals.sub.get(n) if intervals else None) for n, count in sub.items()},
        resamples=intervals.resamples if intervals else None,
        seed=intervals.seed if intervals else None,
    )


def _point_scores(counted: Tally) -> Iterator[PointScore]:
    for one in counted.points:
        yield PointScore(
            index=one.index,
            place=one.place,
            dimension=one.point.dimension,
            correct=one.count.correct,
            total=one.count.total,
            failures=one.count.failures,
        )
