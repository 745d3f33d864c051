"""`POST /benchmarks/{name}/rescore`: scores of the official scripts' result files."""

import gzip
import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from service.api.benchmarks.service import store
from service.app import create_app
from service.contracts.benchmarks.dimensions import dimension_of, primary_named
from service.contracts.benchmarks.official import FILES
from service.db.session import Database
from tests.service.unigenbench import EN, ZH, benchmark, dimensions_of, result_row, results_csv

CSV = "text/csv"
ALL = [
    result_row(index, image_index, [(index + image_index) % 2] * len(dimensions_of(index)))
    for index in range(10)
    for image_index in (0, 1)
]


@pytest.fixture(autouse=True)
def stored(database: Database) -> None:
    with database.transaction() as session:
        for file in (EN, ZH):
            store(session, benchmark(file=file))


def send(client: TestClient, body: str | bytes, media_type: str = CSV, name: str = EN.name, **query: Any) -> Any:
    data = body.encode() if isinstance(body, str) else body
    return client.post(f"/benchmarks/{name}/rescore", content=data, headers={"Content-Type": media_type}, params=query)


class TestScores:
    def test_a_csv_is_scored_with_intervals(self, client: TestClient) -> None:
        text = results_csv(ALL)
        found = send(client, text).json()
        assert (found["benchmark"], found["form"]) == (EN.name, "answers")
        assert found["file_sha256"] == hashlib.sha256(text.encode()).hexdigest()
        scores = found["scores"]
        assert scores["overall"] == scores["micro"]["accuracy"] == 0.5
        assert scores["overall_interval95"] == [0.5, 0.5]
        assert (scores["images"], scores["prompts"], scores["missing_images"]) == (20, 10, 0)
        assert (scores["resamples"], scores["seed"], scores["points"]) == (2000, 0, None)

    def test_points_resamples_and_seed(self, client: TestClient) -> None:
        scores = send(client, results_csv(ALL), points=True, resamples=50, seed=3).json()["scores"]
        assert (scores["resamples"], scores["seed"], len(scores["points"])) == (50, 3, 27)
        assert scores["points"][0]["dimension"] == "Style"
        assert send(client, results_csv(ALL), resamples=0).json()["scores"]["overall_interval95"] is None

    def test_json_and_json_lines_have_equal_scores(self, client: TestClient) -> None:
        expected = send(client, results_csv(ALL)).json()["scores"]
        listed, lines = json.dumps(ALL), "\n".join(map(json.dumps, ALL))
        assert send(client, listed, "application/json").json()["scores"] == expected
        assert send(client, lines, "application/x-ndjson; charset=utf-8").json()["scores"] == expected

    def test_dropped_answers_are_counted_or_recovered(self, client: TestClient) -> None:
        rows = [
            result_row(0, 0, (1, 1, 1)),
            result_row(0, 1, (1, 1, 1), result_json="null"),
            result_row(0, 2, (1, 1, 1), result_json="null", output="I see nothing."),
            result_row(0, 3, (1, 1, 1), result_json="{'score': [1, 1, 2]}", output=""),
        ]
        scores = send(client, results_csv(rows)).json()["scores"]
        assert (scores["images"], scores["recovered"], scores["failed_answers"]) == (2, 1, 2)
        assert scores["failures"] == {"no_scores": 1, "not_binary": 1}
        assert scores["primary"]["Style"] | {"interval95": None} == {
            "correct": 2,
            "total": 2,
            "accuracy": 1.0,
            "interval95": None,
            "failures": 2,
        }

    def test_longest_answer_of_an_export_is_read(self, client: TestClient) -> None:
        rows = [result_row(0, 0, (1, 1, 1), result_json="null", output='"' * 199_000 + "<score>[1, 0, 1]</score>")]
        assert send(client, results_csv(rows)).json()["scores"]["recovered"] == 1

    def test_a_summary_has_only_counts(self, client: TestClient) -> None:
        summary = {
            "primary_dimensions": {"Style": {"correct": 1, "total": 4, "accuracy": 0.25}},
            "sub_dimensions": {"Style": {"correct": 1, "total": 4, "accuracy": 0.25}},
        }
        found = send(client, json.dumps(summary), "application/json").json()
        assert found["form"] == "counts"
        assert found["scores"]["primary"]["Style"]["accuracy"] == 0.25
        assert found["scores"]["failed_answers"] is None

    def test_chinese(self, client: TestClient) -> None:
        found = send(client, "\ufeff" + results_csv([result_row(0, 0, (1, 0, 1), ZH)]), name=ZH.name)
        assert found.json()["scores"]["micro"]["correct"] == 2


class TestErrors:
    def test_every_row_of_another_benchmark_is_reported(self, client: TestClient) -> None:
        rows = [ALL[0], result_row(1, 0, (1, 1, 1), testpoint="[]"), result_row(2, 0, (1, 1, 1), index="3"), ALL[0]]
        response = send(client, results_csv(rows))
        assert (response.status_code, response.json()["code"]) == (422, "invalid_request")
        assert [error["loc"] for error in response.json()["errors"]] == [["body", 3], ["body", 4], ["body", 5]]

    def test_a_file_of_another_set(self, client: TestClient) -> None:
        response = send(client, results_csv(ALL), name=ZH.name)
        assert response.status_code == 422
        assert len(response.json()["errors"]) == 20

    @pytest.mark.parametrize(
        ("body", "media_type", "message"),
        [
            (b"", CSV, "missing columns: index, testpoint, result_json, img_path"),
            (b"index,testpoint,result_json,img_path\n", CSV, "The file has no rows"),
            (b"index,prompt\n\xff\n", CSV, "The file is not UTF-8"),
            (b"\x89PNG\r\n\x1a\n\x00", CSV, "The file is not UTF-8"),
            (b"{", "application/json", "Invalid JSON"),
            (b"{}", "application/json", "neither a list of rows nor a summary"),
            (b"[]", "application/json", "The file has no rows"),
            (b"[" * 100_000, "application/json", "nesting too deep"),
            (b"[" + b"{}," * 100_000, "application/json", "invalid img_path"),
            (b"{}\n" * 100_000, "application/x-ndjson", "invalid img_path"),
            (b"[" + b"[]," * 20_000 + b"1]\n", "application/x-ndjson", "more than 10000 values"),
            (b" " * 2**22, "application/x-ndjson", "a line has more than"),
            (b"{}\n[", "application/x-ndjson", "invalid JSON"),
        ],
    )
    def test_other_files(self, client: TestClient, body: bytes, media_type: str, message: str) -> None:
        response = send(client, body, media_type)
        assert (response.status_code, response.json()["code"]) == (422, "invalid_request")
        assert message in response.text

    def test_other_media_types(self, client: TestClient) -> None:
        response = send(client, b"a", "text/plain")
        assert (response.status_code, response.json()["code"]) == (415, "unsupported_media_type")

    def test_an_unknown_benchmark(self, client: TestClient) -> None:
        assert send(client, results_csv(ALL), name="nothing").status_code == 404

    def test_too_large_a_body(self, database: Database) -> None:
        app = create_app(database.settings.model_copy(update={"max_results_bytes": 1000, "max_body_bytes": 10**9}))
        with TestClient(app, base_url="http://127.0.0.1", client=("127.0.0.1", 50000)) as client:
            response = send(client, results_csv(ALL))
        assert (response.status_code, response.json()["code"]) == (413, "body_too_large")


class TestOfficial:
    @pytest.mark.parametrize("file", [FILES[0], FILES[2]], ids=lambda file: file.language)
    def test_scores_equal_those_of_the_official_scripts(
        self, client: TestClient, database: Database, shared: Path, file: Any
    ) -> None:
        data = (shared / "data" / "unigenbench" / Path(file.path).name).read_bytes()
        with database.transaction() as session:
            store(session, benchmark(data, file))
        golden = shared / "golden" / "unigenbench"
        expected = json.loads((golden / f"expected_{file.language}.json").read_text(encoding="utf-8"))
        text = gzip.decompress((golden / f"results_{file.language}.csv.gz").read_bytes())
        scores = send(client, text, name=file.name).json()["scores"]
        assert round(scores["overall"], 14) == round(expected["overall_mean_of_primary"], 14)
        for part, named in (("primary", primary_named), ("sub", dimension_of)):
            for spelled, counts in expected[f"{part}_dimensions"].items():
                one = scores[part][named(spelled)]
                assert (one["correct"], one["total"], round(one["accuracy"], 4)) == tuple(counts.values())
