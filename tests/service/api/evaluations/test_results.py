"""`/evaluations/{id}/answers` and `/images`: the answers and images of an evaluation."""

import io
import uuid
from typing import Any

import pytest
from fastapi.testclient import TestClient
from PIL import Image

from service.contracts.benchmarks.judge_answers import Failure
from service.contracts.status import JobStatus
from tests.service.unigenbench import answer, benchmark, dimensions_of


def png(color: tuple[int, int, int]) -> bytes:
    data = io.BytesIO()
    Image.new("RGB", (32, 32), color).save(data, "PNG")
    return data.getvalue()


@pytest.fixture
def evaluation(records: Any) -> Any:
    """Image 0 of each prompt meets only its first point, image 1 all others; the answer for 3_1 is unreadable."""
    answers: dict[tuple[int, int], Any] = {}
    for index in range(10):
        points = len(dimensions_of(index))
        answers[index, 0] = [1] + [0] * (points - 1)
        answers[index, 1] = [0] + [1] * (points - 1)
    answers[3, 1] = Failure.NO_SCORES
    return records.evaluation(benchmark(), answers=answers)


def listed(client: TestClient, evaluation: Any, **query: Any) -> list[dict[str, Any]]:
    response = client.get(f"/evaluations/{evaluation.id}/answers", params={"limit": 200, **query})
    assert response.status_code == 200, response.text
    items: list[dict[str, Any]] = response.json()["items"]
    return items


def names(items: list[dict[str, Any]]) -> list[str]:
    return [one["name"] for one in items]


class TestAnswers:
    def test_an_answer_has_its_text_and_a_score_per_test_point(self, client: TestClient, evaluation: Any) -> None:
        first = listed(client, evaluation)[0]
        assert (first["index"], first["image_index"], first["number"], first["name"]) == (0, 0, 1, "0_0.png")
        assert first["prompt"] == benchmark().prompts[0].text
        assert [(one["position"], one["dimension"]) for one in first["points"]] == list(enumerate(dimensions_of(0)))
        assert [one["score"] for one in first["points"]] == [1, 0, 0]
        assert first["points"][1]["description"] == "what 1 is"
        assert (first["text"], first["failure"], first["error"]) == ("<score>[1, 0, 0]</score>", None, "")
        assert first["image_url"] == f"/evaluations/{evaluation.id}/images/0/0"

    def test_pages_are_sorted_by_prompt_image_and_number(self, client: TestClient, evaluation: Any) -> None:
        found: list[str] = []
        cursor = None
        while cursor is not None or not found:
            parameters = {"limit": 7} | ({"cursor": cursor} if cursor else {})
            page = client.get(f"/evaluations/{evaluation.id}/answers", params=parameters).json()
            found += names(page["items"])
            cursor = page["next_cursor"]
        assert found == [f"{index}_{image_index}.png" for index in range(10) for image_index in (0, 1)]

    @pytest.mark.parametrize(
        ("query", "expected"),
        [
            ({"index": 4}, ["4_0.png", "4_1.png"]),
            ({"failure": "no_scores"}, ["3_1.png"]),
            ({"failure": "no_answer"}, []),
            ({"dimension": "Style"}, ["0_0.png", "0_1.png"]),
            ({"dimension": "Style", "met": True}, ["0_0.png"]),
            ({"dimension": "Style", "met": False}, ["0_1.png"]),
            ({"dimension": ["Style", "World Knowledge"], "met": True}, ["0_0.png", "1_0.png"]),
            ({"dimension": dimensions_of(3)[1], "met": True}, []),
            ({"dimension": dimensions_of(4)[1], "met": True}, ["4_1.png"]),
            ({"dimension": "Style", "index": 4}, []),
        ],
    )
    def test_filters(self, client: TestClient, evaluation: Any, query: dict[str, Any], expected: list[str]) -> None:
        assert names(listed(client, evaluation, **query)) == expected

    def test_without_a_dimension_any_test_point_counts(self, client: TestClient, evaluation: Any) -> None:
        assert len(listed(client, evaluation, met=True)) == len(listed(client, evaluation, met=False)) == 19

    def test_the_newest_answer_hides_earlier_ones(self, client: TestClient, records: Any, evaluation: Any) -> None:
        records.answer(evaluation, 3, 1, [1, 1, 1], number=2, text=answer([1, 1, 1]))
        assert listed(client, evaluation, failure="no_scores") == []
        assert [one["number"] for one in listed(client, evaluation, index=3)] == [1, 2]
        tries = listed(client, evaluation, index=3, tries="all")
        assert [(one["name"], one["number"]) for one in tries] == [("3_0.png", 1), ("3_1.png", 1), ("3_1.png", 2)]
        assert [one["score"] for one in tries[1]["points"]] == [None] * 3

    def test_a_missing_answer_has_a_reason(self, client: TestClient, records: Any) -> None:
        row = records.evaluation(benchmark(), JobStatus.RUNNING)
        records.answer(row, 0, 0, Failure.NO_ANSWER, error="the judge does not answer")
        [one] = listed(client, row)
        assert (one["text"], one["failure"], one["error"]) == (None, "no_answer", "the judge does not answer")

    @pytest.mark.parametrize(
        ("query", "loc"),
        [
            ("dimension=Smell", ["query", "dimension"]),
            ("failure=bad", ["query", "failure"]),
            ("index=-1", ["query", "index"]),
            ("tries=last", ["query", "tries"]),
            ("cursor=x", ["query", "cursor"]),
            ("score=1", ["query", "score"]),
        ],
    )
    def test_an_invalid_query_names_the_field(
        self, client: TestClient, evaluation: Any, query: str, loc: list[str]
    ) -> None:
        response = client.get(f"/evaluations/{evaluation.id}/answers?{query}")
        assert response.status_code == 422 and response.json()["errors"][0]["loc"] == loc

    def test_an_unknown_evaluation_is_not_found(self, client: TestClient) -> None:
        for path in ("answers", "images", "images/0/0", "export", "gallery", f"comparison/{uuid.uuid4()}"):
            response = client.get(f"/evaluations/{uuid.uuid4()}/{path}")
            assert (response.status_code, response.json()["code"]) == (404, "not_found"), path


class TestImages:
    def test_an_image_has_its_seed_and_rewards(self, client: TestClient, records: Any) -> None:
        row = records.evaluation(benchmark(), seed=7, rewards=["clip_score"])
        for index, image_index in ((0, 0), (0, 1), (4, 0)):
            records.evaluation_image(
                row, index, image_index, png((index, image_index, 0)), clip_score=None if image_index else 0.5
            )
        page = client.get(f"/evaluations/{row.id}/images?limit=2").json()
        first, second = page["items"]
        assert (first["name"], first["seed"], first["rewards"]) == ("0_0.png", 7, {"clip_score": 0.5})
        assert (second["name"], second["seed"], second["rewards"]) == ("0_1.png", 8, {"clip_score": None})
        assert first["prompt"] == benchmark().prompts[0].text and first["size"] == len(png((0, 0, 0)))
        rest = client.get(f"/evaluations/{row.id}/images", params={"limit": 2, "cursor": page["next_cursor"]}).json()
        assert names(rest["items"]) == ["4_0.png"] and rest["next_cursor"] is None
        assert names(client.get(f"/evaluations/{row.id}/images?index=4").json()["items"]) == ["4_0.png"]

    def test_an_image_is_unchanged_and_cacheable(self, client: TestClient, records: Any) -> None:
        row = records.evaluation(benchmark(), JobStatus.RUNNING)
        records.evaluation_image(row, 2, 1, png((1, 2, 3)))
        [one] = client.get(f"/evaluations/{row.id}/images").json()["items"]
        response = client.get(one["url"])
        assert (response.content, response.headers["content-type"]) == (png((1, 2, 3)), "image/png")
        assert response.headers["etag"] == f'"{one["sha256"]}"'
        assert client.get(one["url"], headers={"If-None-Match": response.headers["etag"]}).status_code == 304

    @pytest.mark.parametrize(
        ("status", "path", "expected"),
        [
            (JobStatus.RUNNING, "0/0", 409),
            (JobStatus.RUNNING, "0/2", 404),
            (JobStatus.RUNNING, "10/0", 404),
            (JobStatus.FAILED, "0/0", 404),
            (JobStatus.RUNNING, "0/16", 422),
            (JobStatus.RUNNING, "-1/0", 422),
        ],
    )
    def test_a_missing_image_may_still_be_generated(
        self, client: TestClient, records: Any, status: JobStatus, path: str, expected: int
    ) -> None:
        row = records.evaluation(benchmark(), status)
        assert client.get(f"/evaluations/{row.id}/images/{path}").status_code == expected
