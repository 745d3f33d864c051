"""Scores equal those of the official script, with additional statistics."""

import gzip
import io
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.contracts.benchmarks.data import Benchmark
from service.contracts.benchmarks.dimensions import PRIMARY, SUB, dimension_of, primary_named
from service.contracts.benchmarks.judge_answers import Failure, Verdict
from service.contracts.benchmarks.results import Answer, Answers, Counts, read_csv, read_json
from service.contracts.benchmarks.scores import Scores, Tally, mean_of_ten, scores, scores_of_counts, tally
from service.core.bootstrap_intervals import compare, intervals
from tests.service.unigenbench import EN, PROMPTS, ZH, benchmark

BENCHMARK = benchmark()
POINTS = [len(prompt.points) for prompt in BENCHMARK.prompts]


def answers_on(index: int, *verdicts: tuple[int, ...] | Failure) -> list[Answer]:
    """Answers for a prompt's images."""
    return [
        Answer(index, image_index, Verdict(one) if isinstance(one, tuple) else Verdict(None, one))
        for image_index, one in enumerate(verdicts)
    ]


def random_answers(
    seed: int, share: float = 0.6, failed: float = 0.1, images: int = 4, of: Benchmark = BENCHMARK
) -> list[Answer]:
    """Random answers for every image."""
    draw = np.random.default_rng(seed)
    return [
        Answer(prompt.index, image_index, Verdict(None, Failure.NO_SCORES) if draw.random() < failed
               else Verdict(tuple(int(one) for one in draw.random(len(prompt.points)) < share)))
        for prompt in of.prompts for image_index in range(images)
    ]  # fmt: skip


class TestScores:
    def test_points_are_pooled_over_images_and_prompts(self) -> None:
        # Prompt 0 has Style, an Action and a Grammar; prompt 1 has World Knowledge, another Action and Grammar.
        found = scores(tally(BENCHMARK, answers_on(0, (1, 0, 1), (1, 1, 0)) + answers_on(1, (0, 1, 1))))
        assert (found.primary["Style"].correct, found.primary["Style"].total) == (2, 2)
        assert (found.primary["Grammar"].correct, found.primary["Grammar"].total) == (2, 3)
        assert found.primary["Grammar"].accuracy == 2 / 3
        assert (found.sub["Grammar - Negation"].correct, found.sub["Grammar - Negation"].total) == (1, 2)
        assert found.sub["Grammar - Consistency"].accuracy is None
        assert (found.micro.correct, found.micro.total) == (6, 9)
        assert (found.prompts, found.images) == (2, 3)

    def test_overall_needs_all_ten(self) -> None:
        assert scores(tally(BENCHMARK, answers_on(0, (1, 1, 1)))).overall is None
        ones = [Answer(index, 0, Verdict((1,) * count)) for index, count in enumerate(POINTS)]
        assert scores(tally(BENCHMARK, ones)).overall == 1.0
        assert scores(tally(BENCHMARK, [])).overall is None

    def test_failures_are_counted_by_reason_and_dimension_and_lower_no_score(self) -> None:
        counted = tally(BENCHMARK, answers_on(0, (1, 1, 1), Failure.NO_SCORES, Failure.WRONG_COUNT, Failure.NO_SCORES))
        found = scores(counted)
        assert (found.failed_answers, found.failures) == (3, {"no_scores": 2, "wrong_count": 1})
        style = found.primary["Style"]
        assert (style.accuracy, style.total, style.failures) == (1.0, 1, 3)
        assert found.sub["World Knowledge"].failures == 0
        assert found.micro.failures == 9
        assert found.missing_images == 4 * (PROMPTS - 1)

    def test_test_points_one_by_one(self) -> None:
        counted = tally(BENCHMARK, answers_on(0, (1, 0, 1), (1, 1, 0), Failure.NO_SCORES))
        points = scores(counted, points=True).points
        assert points is not None and len(points) == 27
        assert [(one.index, one.position, one.correct, one.total, one.failures) for one in points[:4]] == [
            *((0, 0, 2, 2, 1), (0, 1, 1, 2, 1), (0, 2, 1, 2, 1), (1, 0, 0, 0, 0)),
        ]
        assert scores(counted).points is None

    def test_scores_survive_json(self) -> None:
        counted = tally(BENCHMARK, random_answers(1))
        found = scores(counted, intervals(counted), points=True)
        assert Scores.model_validate_json(found.model_dump_json()) == found

    @given(st.integers(0, 2**32), st.floats(0, 1))
    def test_parts_add_up(self, seed: int, share: float) -> None:
        answers = random_answers(seed, share, failed=0.2, images=2)
        found = scores(tally(BENCHMARK, answers))
        for parts in (found.primary, found.sub):
            assert sum(one.correct for one in parts.values()) == found.micro.correct
            assert sum(one.total for one in parts.values()) == found.micro.total
            assert sum(one.failures or 0 for one in parts.values()) == found.micro.failures
        assert found.micro.correct == sum(sum(one.verdict.scores or ()) for one in answers)
        assert (found.images or 0) + (found.failed_answers or 0) == len(answers)

    def test_the_order_of_answers_does_not_matter(self) -> None:
        answers = random_answers(3)
        assert scores(tally(BENCHMARK, answers[::-1])) == scores(tally(BENCHMARK, answers))


class TestIntervals:
    COUNTED = tally(BENCHMARK, random_answers(5))

    def test_the_same_seed_gives_the_same_interval_which_contains_the_score(self) -> None:
        first, again, other = intervals(self.COUNTED, 1), intervals(self.COUNTED, 1), intervals(self.COUNTED, 2)
        assert first == again != other
        found = scores(self.COUNTED, first)
        assert found.overall is not None and found.overall_interval95 is not None
        assert found.overall_interval95[0] < found.overall < found.overall_interval95[1]
        for one in (found.micro, *found.primary.values(), *found.sub.values()):
            assert one.accuracy is not None and one.interval95 is not None
            low, high = one.interval95
            assert 0 <= low <= one.accuracy <= high <= 1
        assert (found.seed, found.resamples) == (1, 2000)

    def test_it_is_the_plain_bootstrap_over_prompts(self) -> None:
        """Reference implementation: the same resamples, prompt by prompt and without matrices."""
        counted, draws = self.COUNTED, 200
        scored = counted.judged()
        indices, generator = list(scored), np.random.default_rng(9)
        values = []
        for times in generator.multinomial(len(indices), [1 / len(indices)] * len(indices), draws):
            ten = {name: [0, 0] for name in PRIMARY}
            for index, count in zip(indices, times, strict=True):
                for one in scored[index]:
                    ten[one.point.primary][0] += count * one.count.correct
                    ten[one.point.primary][1] += count * one.count.total
            if all(total for _, total in ten.values()):
                values.append(sum(correct / total for correct, total in ten.values()) / 10)
        found = intervals(counted, 9, draws)
        assert found is not None and found.overall == pytest.approx(np.quantile(values, [0.025, 0.975]), abs=1e-12)

    def test_equal_prompts_have_no_spread(self) -> None:
        same = [Answer(index, 0, Verdict((1,) * count)) for index, count in enumerate(POINTS)]
        found = intervals(tally(BENCHMARK, same))
        assert found is not None and found.overall == found.micro == (1.0, 1.0)

    def test_without_answers_there_is_no_interval(self) -> None:
        assert intervals(tally(BENCHMARK, [])) is None
        assert intervals(self.COUNTED, resamples=0) is None
        found = intervals(tally(BENCHMARK, answers_on(0, (1, 0, 1))))
        assert found is not None and found.overall is None and found.sub["World Knowledge"] is None

    def test_intervals_have_their_nominal_coverage(self) -> None:
        inside = 0
        for seed in range(100):
            found = intervals(tally(BENCHMARK, random_answers(seed, share=0.5, failed=0, images=8)), seed, 400)
            assert found is not None and found.micro is not None
            inside += found.micro[0] <= 0.5 <= found.micro[1]
        assert 84 <= inside <= 100


class TestComparison:
    def test_wins_losses_and_ties_are_by_prompt(self) -> None:
        first = tally(
            BENCHMARK,
            answers_on(0, (1, 0, 0))
            + answers_on(1, (1, 1, 1))
            + answers_on(2, (1, 0, 0), (1, 0, 0))
            + answers_on(3, (1, 1, 1)),
        )
        second = tally(
            BENCHMARK,
            answers_on(0, (1, 1, 0)) + answers_on(1, (0, 0, 1)) + answers_on(2, (0, 1, 0)) + answers_on(4, (1, 1, 1)),
        )
        found = compare(first, second)
        assert (found.prompts, found.only_first, found.only_second) == (3, 1, 1)
        assert (found.micro.wins, found.micro.losses, found.micro.ties) == (1, 1, 1)
        assert found.micro.difference == pytest.approx(4 / 9 - 6 / 12)
        style = found.primary["Style"]
        assert (style.difference, style.wins, style.losses, style.ties) == (0.0, 0, 0, 1)
        assert found.sub["Text Generation"].difference is None

    def test_an_evaluation_is_equal_to_itself(self) -> None:
        counted = tally(BENCHMARK, random_answers(7))
        found = compare(counted, counted)
        assert (found.overall.difference, found.overall.interval95) == (0.0, (0.0, 0.0))
        assert (found.overall.wins, found.overall.losses, found.overall.ties) == (0, 0, PROMPTS)

    def test_exchanging_the_sides_changes_the_sign(self) -> None:
        first, second = tally(BENCHMARK, random_answers(8)), tally(BENCHMARK, random_answers(9, share=0.9))
        there, back = compare(first, second, 4), compare(second, first, 4)
        assert there.overall.difference == -(back.overall.difference or 0)
        assert there.overall.interval95 is not None and back.overall.interval95 is not None
        assert there.overall.interval95 == pytest.approx([-one for one in back.overall.interval95[::-1]])
        assert (there.micro.wins, there.micro.losses) == (back.micro.losses, back.micro.wins)
        assert there.overall.interval95[0] > 0

    def test_its_difference_is_that_of_the_scores(self) -> None:
        first, second = tally(BENCHMARK, random_answers(10, failed=0)), tally(BENCHMARK, random_answers(11, failed=0))
        before, after, found = scores(first), scores(second), compare(first, second)
        assert before.overall is not None and after.overall is not None
        assert found.overall.difference == pytest.approx(after.overall - before.overall)
        for name in SUB:
            own = (after.sub[name].accuracy or 0) - (before.sub[name].accuracy or 0)
            assert found.sub[name].difference == pytest.approx(own)

    def test_a_paired_interval_is_narrower_than_separate_ones(self) -> None:
        """Prompts differ greatly in difficulty, which both evaluations share."""
        draw = np.random.default_rng(12)
        hard = draw.random(PROMPTS) < 0.5

        share = np.where(hard, 0.1, 0.9)

        def met(index: int) -> Verdict:
            return Verdict(tuple(int(one) for one in draw.random(POINTS[index]) < share[index]))

        def answers() -> list[Answer]:
            return [Answer(index, image_index, met(index)) for index in range(PROMPTS) for image_index in range(8)]

        first, second = tally(BENCHMARK, answers()), tally(BENCHMARK, answers())
        paired, apart = compare(first, second).micro.interval95, intervals(first)
        assert paired is not None and apart is not None and apart.micro is not None
        assert paired[1] - paired[0] < apart.micro[1] - apart.micro[0]

    def test_evaluations_without_a_common_prompt(self) -> None:
        found = compare(tally(BENCHMARK, answers_on(0, (1, 1, 1))), tally(BENCHMARK, answers_on(1, (1, 1, 1))))
        assert (found.prompts, found.overall.difference, found.micro.interval95) == (0, None, None)


class TestOfficial:
    """The scores equal the output of the official script for the same result files."""

    @pytest.fixture(scope="class", params=[EN, ZH], ids=["en", "zh"])
    def case(self, request: pytest.FixtureRequest, shared: Path) -> tuple[Tally, Answers, dict[str, Any], Benchmark]:
        file = request.param
        made = benchmark((shared / "data" / "unigenbench" / Path(file.path).name).read_bytes(), file)
        golden = shared / "golden" / "unigenbench"
        text = gzip.decompress((golden / f"results_{file.language}.csv.gz").read_bytes()).decode()
        answers = read_csv(io.StringIO(text, newline=""), made)
        expected = json.loads((golden / f"expected_{file.language}.json").read_text(encoding="utf-8"))
        return tally(made, answers.answers), answers, expected, made

    def test_every_count_and_accuracy_is_the_official_one(self, case: Any) -> None:
        counted, answers, expected, _ = case
        found = scores(counted)
        assert not answers.problems and len(answers.answers) == expected["rows"] == found.images
        for ours, theirs, named in (
            (found.primary, expected["primary_dimensions"], primary_named),
            (found.sub, expected["sub_dimensions"], dimension_of),
        ):
            written = {
                name: {"correct": one.correct, "total": one.total, "accuracy": round(one.accuracy, 4)}
                for name, one in ours.items()
            }
            assert written == {named(spelled): counts for spelled, counts in theirs.items()}
        assert math.isclose(found.overall, expected["overall_mean_of_primary"], rel_tol=1e-15, abs_tol=0)
        assert (found.failed_answers, found.missing_images) == (0, 2400 - expected["rows"])

    def test_the_official_summary_has_equal_counts(self, case: Any) -> None:
        counted, _, expected, made = case
        summary = read_json(io.StringIO(json.dumps(expected)), made)
        assert isinstance(summary, Counts)
        found, full = scores_of_counts(summary.sub), scores(counted)
        assert found.overall == full.overall
        assert {name: (one.correct, one.total) for name, one in found.primary.items()} == {
            name: (one.correct, one.total) for name, one in full.primary.items()
        }
        assert (found.images, found.micro.failures, found.micro.interval95) == (None, None, None)


def test_the_overall_score_is_the_unweighted_mean_of_the_ten() -> None:
    ten: dict[str, float | None] = {name: number / 10 for number, name in enumerate(PRIMARY, 1)}
    assert mean_of_ten(ten) == 0.55
    assert mean_of_ten(ten | {"Style": None}) is None
    assert mean_of_ten({}) is None
