"""`/evaluations/{id}/gallery`: images of the same prompts and seeds, with their test points."""

import base64
import hashlib
import html.parser
import io
import json
import re
from typing import Any

import pytest
from fastapi.testclient import TestClient
from PIL import Image

from service.contracts.benchmarks.judge_answers import Failure
from service.contracts.status import JobStatus
from tests.service.unigenbench import EN, PROMPTS, ZH, about, benchmark, csv_text, dimensions_of

HTML, PNG = "text/html", "image/png"
LEFT, TOP, CELL, GAP, MARKS = 12 + 220 + 6, 12 + 28, 128, 6, 6 + 20
"""Pixels of a grid whose prompts have three test points and labels of at most the height of an image."""


def png(color: tuple[int, int, int], size: int = 32) -> bytes:
    data = io.BytesIO()
    Image.new("RGB", (size, size), color).save(data, "PNG")
    return data.getvalue()


def color(index: int, image_index: int, position: int = 0) -> tuple[int, int, int]:
    return (20 * index, 100 * image_index, 60 * position)


def generated(records: Any, position: int = 0, content: Any = None, **spec: Any) -> Any:
    """An evaluation with all its images, which meet only their first test point; the answer for 1_0 is unreadable."""
    content = content or benchmark()
    scores = {
        (prompt.index, image_index): [1, *[0] * (len(prompt.points) - 1)]
        for prompt in content.prompts
        for image_index in (0, 1)
    }
    row = records.evaluation(
        content, answers=scores | {(1, 0): Failure.NO_SCORES} if len(content.prompts) > 1 else scores, **spec
    )
    for index, image_index in scores:
        records.evaluation_image(row, index, image_index, png(color(index, image_index, position)))
    return row


def gallery(client: TestClient, evaluation: Any, accept: str = HTML, **query: Any) -> Any:
    response = client.get(f"/evaluations/{evaluation.id}/gallery", params=query, headers={"Accept": accept})
    assert response.status_code == 200, response.text
    assert response.headers["vary"] == "Accept"
    return response


def embedded(page: str) -> list[bytes]:
    return [base64.b64decode(one) for one in re.findall(r'src="data:image/png;base64,([^"]*)"', page)]


def prompts_in(page: str) -> list[int]:
    return [int(one) for one in re.findall(r"<small>prompt (\d+)", page)]


class Elements(html.parser.HTMLParser):
    """Every element of a page, and its text."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.attributes: set[str] = set()
        self.words = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes |= {name for name, _ in attrs}

    def handle_data(self, data: str) -> None:
        self.words += data


class TestPrompts:
    def test_a_seed_selects_the_same_prompts(self, client: TestClient, records: Any) -> None:
        row = generated(records)
        first, again, other = (prompts_in(gallery(client, row, seed=seed).text) for seed in (0, 0, 1))
        assert first == again == sorted(first) and len(first) == 4
        assert first != other
        assert prompts_in(gallery(client, row, count=50).text) == list(range(PROMPTS))

    def test_prompts_are_selected_by_dimension_or_index(self, client: TestClient, records: Any) -> None:
        row = generated(records)
        assert prompts_in(gallery(client, row, dimension="Style").text) == [0]
        assert prompts_in(gallery(client, row, index=[7, 3]).text) == [3, 7]

    def test_only_common_prompts_are_shown(self, client: TestClient, records: Any) -> None:
        row, part = generated(records), records.evaluation(benchmark(), limit=2)
        response = gallery(client, row, count=50, **{"with": str(part.id)})
        assert prompts_in(response.text) == [0, 1]

    @pytest.mark.parametrize(
        ("query", "status", "loc"),
        [
            ({"index": 11}, 422, ["query", "index", 0]),
            ({"index": [3, 0], "dimension": "Style"}, 422, ["query", "index", 0]),
            ({"dimension": "Smell"}, 422, ["query", "dimension"]),
            ({"with": "00000000-0000-7000-8000-000000000001"}, 422, ["query", "with", 0]),
            ({"count": 0}, 422, ["query", "count"]),
            ({"images": 17}, 422, ["query", "images"]),
        ],
    )
    def test_an_invalid_query_names_the_field(
        self, client: TestClient, records: Any, query: dict[str, Any], status: int, loc: list[Any]
    ) -> None:
        response = client.get(f"/evaluations/{generated(records).id}/gallery", params=query)
        assert response.status_code == status and response.json()["errors"][0]["loc"] == loc, response.text

    def test_others_must_be_of_the_same_benchmark_and_unique(self, client: TestClient, records: Any) -> None:
        row, other = generated(records), records.evaluation(benchmark(file=ZH))
        path = f"/evaluations/{row.id}/gallery"
        for others, kind in (
            ([other.id], "other_benchmark"),
            ([row.id], "duplicate"),
            ([row.id] * 2, "value_error"),
        ):
            [error] = client.get(path, params={"with": [str(one) for one in others]}).json()["errors"]
            assert error["type"] == kind


class TestPage:
    def test_a_single_evaluation_has_a_column_per_seed(self, client: TestClient, records: Any) -> None:
        response = gallery(client, generated(records, name="mine"), index=[4, 8])
        page = Elements(response.text)
        assert embedded(response.text) == [png(color(index, image_index)) for index in (4, 8) for image_index in (0, 1)]
        assert f"{EN.name}: mine" in page.words and "seed 3407" in page.words and "seed 3408" in page.words
        assert benchmark().prompts[4].text in page.words
        first, *others = dimensions_of(4)
        assert f"✓ {first}" in page.words and all(f"✗ {one}" in page.words for one in others)

    def test_several_evaluations_have_a_column_each(self, client: TestClient, records: Any) -> None:
        checkpoint = records.checkpoint(records.run(JobStatus.SUCCEEDED, name="try 1"), {"w": b"w"})
        first, second = generated(records), generated(records, 1, checkpoint=checkpoint)
        response = gallery(client, first, index=[4, 8], images=2, **{"with": str(second.id)})
        words = Elements(response.text).words
        assert "shapes-flux, step 20 of try 1" in words and "2 evaluations side by side" in words
        assert embedded(response.text) == [
            png(color(index, image_index, position))
            for index in (4, 8)
            for image_index in (0, 1)
            for position in (0, 1)
        ]
        assert len(embedded(gallery(client, first, count=3, **{"with": str(second.id)}).text)) == 6

    def test_an_unreadable_answer_has_unknown_points(self, client: TestClient, records: Any) -> None:
        words = Elements(gallery(client, generated(records), index=1, images=1).text).words
        assert f"? {dimensions_of(1)[0]}" in words and "✓" not in words and "✗" not in words

    def test_texts_are_escaped_and_nothing_is_loaded(self, client: TestClient, records: Any) -> None:
        nasty = '<script>alert(1)</script><img src=x onerror="alert(2)">"\'&</td>'
        body = [["0", nasty, json.dumps(about(["Style"], "en") | {"Testpoint Description": ['"><b onclick=x>']})]]
        row = generated(records, content=benchmark(csv_text(EN.columns, body).encode()), name=nasty)
        response = gallery(client, row)
        page = Elements(response.text)
        assert nasty in page.words
        assert page.tags <= {
            *("html", "head", "meta", "title", "style", "body", "h1", "table", "thead", "tbody", "tr", "th", "td"),
            *("br", "small", "img", "ul", "li"),
        }
        assert page.attributes <= {"charset", "dir", "width", "height", "alt", "src", "class", "title"}
        policy = response.headers["content-security-policy"]
        style = re.search(r"<style>(.*?)</style>", response.text, re.DOTALL)
        assert style is not None
        digest = base64.b64encode(hashlib.sha256(style[1].encode()).digest()).decode()
        assert policy.startswith("default-src 'none'; img-src data:") and f"'sha256-{digest}'" in policy
        assert "script-src" not in policy and "unsafe" not in policy and "sandbox" in policy
        assert response.headers["x-content-type-options"] == "nosniff"


class TestImage:
    def test_a_grid_has_numbered_marks(self, client: TestClient, records: Any) -> None:
        response = gallery(client, generated(records), PNG, index=[1, 4])
        with Image.open(io.BytesIO(response.content)) as opened:
            pixels = opened.convert("RGB")
        for line, index in enumerate((1, 4)):
            for image_index in (0, 1):
                x, y = LEFT + image_index * (CELL + GAP), TOP + line * (CELL + MARKS + GAP)
                assert pixels.getpixel((x + 64, y + 64)) == color(index, image_index)
                corner = pixels.getpixel((x + 1, y + CELL + GAP + 1))
                assert corner == ((225, 225, 225) if (index, image_index) == (1, 0) else (0, 114, 178))
        x, y = LEFT + 20, TOP + CELL + MARKS + GAP + CELL + GAP  # the second test point of 4_0 is struck out
        assert pixels.getpixel((x, y)) == (30, 30, 30) and pixels.getpixel((x + 1, y + 1)) == (255, 255, 255)

    def test_a_missing_image_is_gray(self, client: TestClient, records: Any) -> None:
        row = records.evaluation(benchmark(), JobStatus.RUNNING)
        with Image.open(io.BytesIO(gallery(client, row, PNG, count=1).content)) as opened:
            assert opened.convert("RGB").getpixel((LEFT + 64, TOP + 64)) == (225, 225, 225)
        assert embedded(gallery(client, row, count=1).text) == []

    def test_too_many_pixels(self, client: TestClient, records: Any) -> None:
        row = records.evaluation(benchmark(), width=4096, height=4096)
        for accept in (PNG, HTML):
            response = client.get(f"/evaluations/{row.id}/gallery?count=10", headers={"Accept": accept})
            assert (response.status_code, response.json()["code"]) == (406, "not_acceptable")

    def test_other_media_types_are_not_acceptable(self, client: TestClient, records: Any) -> None:
        response = client.get(f"/evaluations/{generated(records).id}/gallery", headers={"Accept": "image/jpeg"})
        assert response.status_code == 406
