"""`/leaderboard`: published rows and evaluations, in every media type."""

import csv
import io
from typing import Any

import pytest
from fastapi.testclient import TestClient
from PIL import Image
from sqlalchemy import update

from service.api.benchmarks.service import store
from service.api.leaderboard.figure import draw
from service.api.leaderboard.schemas import Leaderboard
from service.api.leaderboard.service import csv_table, markdown
from service.contracts.benchmarks.judge_answers import Failure
from service.contracts.benchmarks.leaderboard import COLUMNS, Row, rank
from service.contracts.benchmarks.scores import Scores, wilson
from service.contracts.catalog import JudgeEntry
from service.contracts.evaluations import EvaluationSpec
from service.contracts.status import JobStatus
from service.db.models import Evaluation
from service.db.session import Database
from tests.service.unigenbench import EN, benchmark, dimensions_of, prompts_csv, rows


def board(*rows: Row) -> Leaderboard:
    return Leaderboard(benchmark="b", columns=list(COLUMNS), rankings=rank(rows))


def row(model: str, value: float | None, judge: str = "j", data_sha256: str | None = "d" * 64) -> Row:
    about = {"model": model, "kind": "evaluated", "source": "s", "benchmark": "b", "judge": judge}
    values = dict.fromkeys(COLUMNS, value)
    return Row.model_validate({**about, "data_sha256": data_sha256, "protocol": "official", "values": values})


class TestMediaTypes:
    def test_json(self, client: TestClient) -> None:
        response = client.get("/leaderboard?benchmark=unigenbench-en")
        found = response.json()
        assert response.headers["vary"] == "Accept"
        assert found["benchmark"] == "unigenbench-en" and len(found["columns"]) == 11
        [ranking] = found["rankings"]
        assert [one["model"] for one in ranking["rows"]] == [
            *("G²RPO", "MixGRPO", "G²RPO w/o MGAI", "DanceGRPO", "Flux.1-dev"),
        ]
        assert all(one["kind"] == "published" and "Table 2" in one["source"] for one in ranking["rows"])
        assert ranking["rows"][0]["marks"]["Overall"] == "best"

    def test_csv(self, client: TestClient) -> None:
        response = client.get("/leaderboard?benchmark=unigenbench-en", headers={"Accept": "text/csv"})
        assert response.headers["content-type"] == "text/csv; charset=utf-8"
        rows = {one["model"]: one for one in csv.DictReader(io.StringIO(response.text))}
        assert rows["G²RPO"]["Overall"] == "69.21" and rows["MixGRPO"]["Overall"] == "66.60"
        assert rows["Flux.1-dev"]["best"] == "Style; Grammar"
        assert rows["DanceGRPO"]["second"] == "Action; Entity Layout"

    def test_markdown(self, client: TestClient) -> None:
        text = client.get("/leaderboard?benchmark=unigenbench-en", headers={"Accept": "text/markdown"}).text
        assert "| Model | Overall | Style | World Know. |" in text
        assert "| G²RPO | **69.21** | 76.20 | **89.08** |" in text
        assert "| MixGRPO | <u>66.60</u> | <u>80.80</u> | <u>87.97</u> | 74.04 | <u>68.82</u> |" in text
        assert "published: G²RPO, supplementary material, Table 2 |" in text

    def test_png(self, client: TestClient) -> None:
        response = client.get("/leaderboard?benchmark=unigenbench-en", headers={"Accept": "image/png"})
        assert response.headers["content-type"] == "image/png"
        image = Image.open(io.BytesIO(response.content))
        assert image.width > 1500 and image.height > 200

    def test_other_media_types_are_not_acceptable(self, client: TestClient) -> None:
        assert client.get("/leaderboard?benchmark=unigenbench-en", headers={"Accept": "text/html"}).status_code == 406


class TestBenchmarks:
    def test_a_benchmark_without_rows_has_an_empty_leaderboard(self, client: TestClient) -> None:
        for accept in ("application/json", "text/csv", "text/markdown", "image/png"):
            response = client.get("/leaderboard?benchmark=unigenbench-zh", headers={"Accept": accept})
            assert response.status_code == 200
        assert client.get("/leaderboard?benchmark=unigenbench-zh").json()["rankings"] == []

    def test_an_unknown_benchmark_suggests_a_name(self, client: TestClient) -> None:
        response = client.get("/leaderboard?benchmark=unigenbnch-en")
        assert response.status_code == 404
        detail = response.json()["detail"]
        assert detail.startswith("Benchmark 'unigenbnch-en' not found. Did you mean 'unigenbench-en'? Available: ")
        assert "unigenbench-en-long" in detail

    def test_an_imported_benchmark_has_a_leaderboard(self, client: TestClient, database: Database) -> None:
        with database.transaction() as session:
            store(session, benchmark().model_copy(update={"name": "our-own"}))
        assert client.get("/leaderboard?benchmark=our-own").json()["rankings"] == []


class TestTables:
    def test_rankings_are_separate_tables(self) -> None:
        created = board(row("a", 50), row("b", 60, judge="other"), row("c", 40, data_sha256=None))
        text = markdown(created)
        assert text.count("## ") == 3 and text.count("**50.00**") == text.count("**60.00**") == len(COLUMNS)
        assert "data unknown" in text and f"data {'d' * 12}," in text
        assert len(csv_table(created).splitlines()) == 4

    @pytest.mark.parametrize("name", ["a|b", "**a**", "<script>", "a\nb", "$x^2$", "`a`", "\\", "a" * 500])
    def test_names_are_escaped(self, name: str) -> None:
        created = board(row(name, 50), row("b", None))
        lines = [line for line in markdown(created).splitlines() if line.startswith("| ")]
        assert len(lines) == 3
        assert all(line.replace("\\|", "").count("|") == len(COLUMNS) + 3 for line in lines)
        assert "<script>" not in markdown(created).replace("\\<", "")
        [first, _] = csv.DictReader(io.StringIO(csv_table(created), newline=""))
        assert first["model"] == name
        assert draw(created).startswith(b"\x89PNG")

    def test_only_the_figure_limits_the_rows(self) -> None:
        created = board(*(row(f"model {number}", number / 10) for number in range(100)))
        assert len(csv_table(created).splitlines()) == 101
        assert Image.open(io.BytesIO(draw(created))).height < 4000


class TestIntervals:
    def test_only_clearly_best_values_are_bold(self) -> None:
        def created(low: float, high: float) -> Leaderboard:
            first, second = row("a", 60), row("b", 50)
            intervals = {"intervals95": dict.fromkeys(COLUMNS, (low, 65.0))}, {"intervals95": {"Style": (45.0, high)}}
            rows = (one.model_copy(update=found) for one, found in zip((first, second), intervals, strict=True))
            return board(*rows)

        clear, first_overlaps, second_overlaps = created(55, 58), created(45, 58), created(55, 61)
        assert "| a | **60.00** (55.0\N{EN DASH}65.0) |" in markdown(clear)
        assert "**" not in markdown(first_overlaps) and "| a | 60.00 (45.0\N{EN DASH}65.0) |" in markdown(
            first_overlaps
        )
        assert "Style" not in second_overlaps.rankings[0].rows[0].clearly_best
        assert first_overlaps.rankings[0].rows[0].marks["Overall"] == "best"
        assert draw(clear) != draw(first_overlaps)

    def test_the_default_benchmark_is_that_of_evaluations(self, client: TestClient) -> None:
        assert client.get("/leaderboard").json()["benchmark"] == EvaluationSpec(model="m").benchmark

    def test_equal_answers_have_an_interval_with_width(self) -> None:
        assert wilson(0, 4) == pytest.approx((0, 0.4899), abs=1e-4)
        assert wilson(7, 7) == pytest.approx((0.6457, 1), abs=1e-4)
        assert wilson(5, 10) == pytest.approx((0.2366, 0.7634), abs=1e-4)

    def test_no_dimension_has_an_interval_of_width_zero(self, client: TestClient, records: Any) -> None:
        records.evaluation(benchmark(), answers=answered(1))
        [found] = evaluated(client)
        assert all(low < high for name, (low, high) in found["intervals95"].items() if name != "Overall")


class TestEvaluated:
    def test_an_evaluation_has_a_row_with_its_interval_and_failures(
        self, client: TestClient, database: Database, records: Any
    ) -> None:
        evaluation = records.evaluation(benchmark(), answers=answered(1, {(3, 1): Failure.NO_SCORES}), name="mine")
        published, own = client.get("/leaderboard?benchmark=unigenbench-en").json()["rankings"]
        assert published["protocol"] == "published" and len(published["rows"]) == 5
        [found] = own["rows"]
        assert (found["model"], found["kind"]) == ("mine", "evaluated")
        assert found["evaluation_id"] == str(evaluation.id) and str(evaluation.id) in found["source"]
        with database.sessions() as session:
            scores = Scores.model_validate(session.get_one(Evaluation, evaluation.id).scores)
        assert scores.overall is not None and scores.overall_interval95 is not None
        assert found["values"]["Overall"] == 100 * scores.overall
        assert found["intervals95"]["Overall"] == [100 * end for end in scores.overall_interval95]
        assert set(found["intervals95"]) == set(COLUMNS)
        assert found["failed_answers"] == 1 and found["marks"]["Overall"] == "best"
        about = {name: own[name] for name in ("judge", "protocol", "num_images", "seed", "content_sha256")}
        evaluated_row = {"judge": "perception", "protocol": "adapted", "num_images": 2, "seed": 3407}
        assert about == evaluated_row | {"content_sha256": benchmark().content_sha256}

    def test_an_evaluation_is_in_every_media_type(self, client: TestClient, records: Any) -> None:
        evaluation = records.evaluation(benchmark(), answers=answered(1, {(3, 1): Failure.NO_SCORES}), name="mi|ne")
        table = client.get("/leaderboard?benchmark=unigenbench-en", headers={"Accept": "text/csv"}).text
        [row] = [one for one in csv.DictReader(io.StringIO(table)) if one["kind"] == "evaluated"]
        assert (row["model"], row["evaluation_id"], row["failed_answers"]) == ("mi|ne", str(evaluation.id), "1")
        assert float(row["overall_low"]) <= float(row["Overall"]) <= float(row["overall_high"])
        text = client.get("/leaderboard?benchmark=unigenbench-en", headers={"Accept": "text/markdown"}).text
        assert "| mi\\|ne | **" in text and "** (" in text and "failed answers: 1" in text
        assert "2 images per prompt from seed 3407" in text
        assert client.get("/leaderboard?benchmark=unigenbench-en", headers={"Accept": "image/png"}).status_code == 200

    def test_the_model_name_is_that_of_the_evaluation_or_checkpoint(
        self, client: TestClient, database: Database, records: Any
    ) -> None:
        run = records.run(JobStatus.SUCCEEDED, name="try 1")
        checkpoint = records.checkpoint(run, {"w": b"w"}, step=40)
        records.evaluation(benchmark(), answers=answered(1))
        records.evaluation(benchmark(), answers=answered(1), checkpoint=checkpoint)
        records.evaluation(benchmark(), answers=answered(1), checkpoint=checkpoint, name="mine", steps=4)
        assert models(client) == {"shapes-flux", "shapes-flux, step 40 of try 1", "mine"}
        with database.transaction() as session:
            session.execute(update(Evaluation).values(checkpoint_id=None))
        assert models(client) == {"shapes-flux", f"shapes-flux, checkpoint {str(checkpoint.id)[-6:]}", "mine"}

    def test_the_newest_evaluation_of_equal_settings_counts(self, client: TestClient, records: Any) -> None:
        for name in ("old", "new"):
            records.evaluation(benchmark(), answers=answered(1), name=name, rewards=[] if name == "old" else ["clip"])
        records.evaluation(benchmark(), answers=answered(1), name="others", guidance=1)
        assert models(client) == {"new", "others"}

    def test_judge_content_images_and_seed_separate_rankings(self, client: TestClient, records: Any) -> None:
        judge = JudgeEntry(name="vlm", kind="openai", url="http://127.0.0.1:1/v1", model="qwen")
        fewer = benchmark(prompts_csv(EN, rows(EN)[:9]).encode())
        records.evaluation(benchmark(), answers=answered(1))
        records.evaluation(benchmark(), answers=answered(1), judge=judge)
        records.evaluation(benchmark(), answers=answered(1), seed=5)
        records.evaluation(benchmark(), answers=answered(1), num_images=4)
        records.evaluation(fewer, answers={image: scores for image, scores in answered(1).items() if image[0] < 9})
        rankings = client.get("/leaderboard?benchmark=unigenbench-en").json()["rankings"][1:]
        assert [len(one["rows"]) for one in rankings] == [1] * 5
        assert {one["judge"] for one in rankings} == {"perception", "qwen"}

    def test_the_official_protocol(self, client: TestClient, records: Any) -> None:
        judge = JudgeEntry(name="vlm", kind="openai", url="http://127.0.0.1:1/v1", model="qwen")
        pinned = benchmark().model_copy(update={"pinned": True})
        cases = [
            (pinned, {"judge": judge, "num_images": 4}, "official"),
            (pinned, {"num_images": 4}, "adapted"),
            (pinned, {"judge": judge}, "adapted"),
            (pinned, {"judge": judge, "num_images": 4, "seed": 1}, "adapted"),
            (pinned.model_copy(update={"name": "our-own"}), {"judge": judge, "num_images": 4}, "adapted"),
        ]
        for content, options, protocol in cases:
            evaluation = records.evaluation(content, answers=answered(1), **options)
            found = client.get("/leaderboard", params={"benchmark": content.name}).json()["rankings"]
            [own] = [one for one in found if any(row["evaluation_id"] == str(evaluation.id) for row in one["rows"])]
            assert own["protocol"] == protocol, options

    def test_partial_and_unjudged_evaluations_are_omitted(self, client: TestClient, records: Any) -> None:
        records.evaluation(benchmark(), answers=answered(1), limit=10, name="complete")
        part = {image: scores for image, scores in answered(1).items() if image[0] < 3}
        records.evaluation(benchmark(), answers=part, limit=3)
        records.evaluation(benchmark(), JobStatus.FAILED, answers=answered(1))
        records.evaluation(benchmark(), JobStatus.RUNNING, answers=answered(1))
        records.evaluation(benchmark(), judge=None, rewards=["clip_score"])
        assert models(client) == {"complete"}
        note = "evaluations of some of the prompts are not ranked: 1 omitted"
        assert client.get("/leaderboard?benchmark=unigenbench-en").json()["notes"] == [note]
        assert note in client.get("/leaderboard?benchmark=unigenbench-en", headers={"Accept": "text/markdown"}).text

    def test_the_number_of_evaluations_is_limited(
        self, client: TestClient, records: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("service.api.leaderboard.service.MAX_EVALUATIONS", 2)
        for seed in range(3):
            records.evaluation(benchmark(), answers=answered(1), name=f"number {seed}", seed=seed)
        assert models(client) == {"number 1", "number 2"}
        assert client.get("/leaderboard?benchmark=unigenbench-en").json()["notes"] == [
            "only the newest 2 evaluations are shown"
        ]

    def test_ties_share_a_mark(self, client: TestClient, records: Any) -> None:
        for name, steps in (("a", 1), ("b", 2)):
            records.evaluation(benchmark(), answers=answered(1), name=name, steps=steps)
        records.evaluation(benchmark(), answers=answered(0), name="c", steps=3)
        marks = {one["model"]: one["marks"].get("Style") for one in evaluated(client)}
        assert marks == {"a": "best", "b": "best", "c": "second"}


def answered(score: int, failed: dict[tuple[int, int], Failure] | None = None) -> dict[tuple[int, int], Any]:
    """Answers for two images per prompt; the second image meets no test point."""
    scores = {
        (index, image_index): [score * (1 - image_index)] * len(dimensions_of(index))
        for index in range(10)
        for image_index in (0, 1)
    }
    return scores | (failed or {})


def evaluated(client: TestClient) -> list[dict[str, Any]]:
    rankings = client.get("/leaderboard?benchmark=unigenbench-en").json()["rankings"]
    return [row for ranking in rankings for row in ranking["rows"] if row["kind"] == "evaluated"]


def models(client: TestClient) -> set[str]:
    return {one["model"] for one in evaluated(client)}
