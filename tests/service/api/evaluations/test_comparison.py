"""`/evaluations/{first}/comparison/{second}`: two evaluations of one benchmark, prompt by prompt."""

import io
import random
from typing import Any

import pytest
from fastapi.testclient import TestClient
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from service.contracts.benchmarks.judge_answers import Failure
from service.contracts.catalog import JudgeEntry
from service.contracts.status import JobStatus
from service.core.bootstrap_intervals import compare_values
from tests.service.unigenbench import EN, ZH, benchmark, dimensions_of, prompts_csv, rows

OTHER = JudgeEntry(name="other", kind="openai", url="http://127.0.0.1:1/v1", model="qwen")
VALUES = st.dictionaries(st.integers(0, 9), st.lists(st.floats(-10, 10), max_size=4))


def answers(met: float, seed: int) -> dict[tuple[int, int], Any]:
    chance = random.Random(seed)
    return {
        (index, image_index): [int(chance.random() < met) for _ in dimensions_of(index)]
        for index in range(10)
        for image_index in (0, 1)
    }


def compared(client: TestClient, first: Any, second: Any, **query: Any) -> Any:
    return client.get(f"/evaluations/{first.id}/comparison/{second.id}", params=query)


class TestScores:
    def test_differences_have_intervals_and_wins(self, client: TestClient, records: Any) -> None:
        first = records.evaluation(benchmark(), answers=answers(0.2, 1))
        second = records.evaluation(benchmark(), answers=answers(0.9, 2), name="aligned")
        found = compared(client, first, second).json()
        scores = found["scores"]
        low, high = scores["overall"]["interval95"]
        assert 0 < low < scores["overall"]["difference"] < high <= 1
        assert scores["micro"]["wins"] + scores["micro"]["losses"] + scores["micro"]["ties"] == scores["prompts"] == 10
        assert scores["micro"]["wins"] > scores["micro"]["losses"]
        assert (scores["resamples"], scores["seed"], found["judge"]) == (2000, 0, "perception")
        assert found["content_sha256"] == benchmark().content_sha256 and found["benchmark"] == EN.name
        assert [found[side]["label"] for side in ("first", "second")] == ["shapes-flux", "aligned"]
        assert found["warnings"] == []

    def test_exchanging_the_sides_negates_the_difference(self, client: TestClient, records: Any) -> None:
        first = records.evaluation(benchmark(), answers=answers(0.4, 1))
        second = records.evaluation(benchmark(), answers=answers(0.6, 2))
        there, back = (compared(client, *pair).json()["scores"] for pair in ((first, second), (second, first)))
        for name, one in there["primary"].items():
            other = back["primary"][name]
            assert one["difference"] == -other["difference"] and one["wins"] == other["losses"]
            assert one["interval95"] == pytest.approx([-end for end in reversed(other["interval95"])])

    def test_resamples(self, client: TestClient, records: Any) -> None:
        row = records.evaluation(benchmark(), answers=answers(0.4, 1))
        found = compared(client, row, row, resamples=0).json()["scores"]
        assert found["overall"]["interval95"] is None and found["overall"]["difference"] == 0
        assert found["micro"]["ties"] == 10


class TestErrors:
    def test_the_content_must_be_equal(self, client: TestClient, records: Any) -> None:
        first = records.evaluation(benchmark(), answers=answers(0.4, 1))
        fewer = benchmark(prompts_csv(EN, rows(EN)[:9]).encode())
        for other in (records.evaluation(fewer), records.evaluation(benchmark(file=ZH))):
            [error] = compared(client, first, other).json()["errors"]
            assert (error["type"], error["loc"]) == ("other_benchmark", ["path", "second_id"])
            assert benchmark().content_sha256[:12] in error["msg"]

    def test_the_judges_must_be_equal(self, client: TestClient, records: Any) -> None:
        first = records.evaluation(benchmark(), judge=None, rewards=["clip_score"])
        second = records.evaluation(benchmark(), judge=OTHER)
        third = records.evaluation(benchmark(), answers=answers(0.4, 1))
        [error] = compared(client, third, second).json()["errors"]
        assert error["type"] == "other_judge" and "'qwen'" in error["msg"] and "'perception'" in error["msg"]
        assert compared(client, third, first).json()["scores"] is None

    def test_both_must_have_ended(self, client: TestClient, records: Any) -> None:
        ended, running = records.evaluation(benchmark()), records.evaluation(benchmark(), JobStatus.RUNNING)
        for pair in ((ended, running), (running, ended)):
            response = compared(client, *pair)
            assert (response.status_code, response.json()["code"]) == (409, "not_finished")


class TestWarnings:
    def test_other_differences_are_warnings(self, client: TestClient, records: Any) -> None:
        first = records.evaluation(benchmark(), answers=answers(0.4, 1), rewards=["clip_score"])
        settings = {"steps": 4, "seed": 9, "width": 16, "limit": 5}
        second = records.evaluation(benchmark(), JobStatus.FAILED, answers={(0, 0): Failure.NO_SCORES}, **settings)
        assert compared(client, first, second).json()["warnings"] == [
            "seed differs: 3407 in the first, 9 in the second",
            "steps differs: 8 in the first, 4 in the second",
            "width differs: 32 in the first, 16 in the second",
            "the first has 10 prompts, the second 5; only common prompts are compared",
            "the second is failed: images may be missing",
            "unreadable answers of the second: 1",
            "only the first has the rewards clip_score",
        ]

    def test_prompts_of_one_side_are_omitted(self, client: TestClient, records: Any) -> None:
        first = records.evaluation(benchmark(), answers=answers(0.4, 1))
        half = {image: scores for image, scores in answers(0.4, 1).items() if image[0] < 4}
        second = records.evaluation(benchmark(), answers=half, limit=4)
        scores = compared(client, first, second).json()["scores"]
        assert (scores["prompts"], scores["only_first"], scores["only_second"]) == (4, 6, 0)


class TestRewards:
    def test_rewards_of_both_are_compared_over_images(self, client: TestClient, records: Any) -> None:
        image = io.BytesIO()
        Image.new("RGB", (8, 8)).save(image, "PNG")
        first, second = (records.evaluation(benchmark(), judge=None, rewards=["clip_score"]) for _ in range(2))
        for index, values in enumerate([(0.1, 0.5, 0.2, None), (0.4, 0.2, 0.5, 0.3), (None, None, 0.9, 0.9)]):
            for image_index in (0, 1):
                records.evaluation_image(first, index, image_index, image.getvalue(), clip_score=values[image_index])
                records.evaluation_image(
                    second, index, image_index, image.getvalue(), clip_score=values[2 + image_index]
                )
        one = compared(client, first, second).json()["rewards"]["clip_score"]
        assert one["difference"] == pytest.approx((0.2 + 0.5 + 0.3) / 3 - (0.1 + 0.5 + 0.4 + 0.2) / 4)
        assert (one["wins"], one["losses"], one["ties"]) == (1, 1, 0)
        assert one["interval95"][0] <= one["difference"] <= one["interval95"][1]

    @given(VALUES, VALUES)
    def test_exchanging_the_sides_negates_the_difference(self, first: Any, second: Any) -> None:
        there, back = compare_values(first, second, resamples=50), compare_values(second, first, resamples=50)
        assert (there.wins, there.losses, there.ties) == (back.losses, back.wins, back.ties)
        if there.difference is None:
            assert back.difference is None and there.interval95 is None
            assert not any(first[index] and second[index] for index in first.keys() & second.keys())
        else:
            assert back.difference == pytest.approx(-there.difference)
