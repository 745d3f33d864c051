"""`/leaderboard`: the published rows in every form."""

import csv
import io

import pytest
from fastapi.testclient import TestClient
from PIL import Image

from service.benchmarks.service import store
from service.contracts.benchmarks.leaderboard import COLUMNS, Row, rank
from service.db.session import Database
from service.leaderboard.figure import draw
from service.leaderboard.schemas import Leaderboard
from service.leaderboard.service import csv_table, markdown
from tests.service.unigenbench import benchmark


def board(*rows: Row) -> Leaderboard:
    return Leaderboard(benchmark="b", columns=list(COLUMNS), rankings=rank(rows))


def row(model: str, value: float | None, judge: str = "j", data_sha256: str | None = "d" * 64) -> Row:
    about = {"model": model, "kind": "evaluated", "source": "s", "benchmark": "b", "judge": judge}
    values = dict.fromkeys(COLUMNS, value)
    return Row.model_validate({**about, "data_sha256": data_sha256, "protocol": "official", "values": values})


class TestForms:
    def test_json(self, client: TestClient) -> None:
        response = client.get("/leaderboard")
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
        response = client.get("/leaderboard", headers={"Accept": "text/csv"})
        assert response.headers["content-type"] == "text/csv; charset=utf-8"
        rows = {one["model"]: one for one in csv.DictReader(io.StringIO(response.text))}
        assert rows["G²RPO"]["Overall"] == "69.21" and rows["MixGRPO"]["Overall"] == "66.60"
        assert rows["Flux.1-dev"]["best"] == "Style; Grammar"
        assert rows["DanceGRPO"]["second"] == "Action; Entity Layout"

    def test_markdown(self, client: TestClient) -> None:
        text = client.get("/leaderboard", headers={"Accept": "text/markdown"}).text
        assert "| Model | Overall | Style | World Know. |" in text
        assert "| G²RPO | **69.21** | 76.20 | **89.08** |" in text
        assert "| MixGRPO | <u>66.60</u> | <u>80.80</u> | <u>87.97</u> | 74.04 | <u>68.82</u> |" in text
        assert "published: G²RPO, supplementary material, Table 2 |" in text

    def test_png(self, client: TestClient) -> None:
        response = client.get("/leaderboard", headers={"Accept": "image/png"})
        assert response.headers["content-type"] == "image/png"
        picture = Image.open(io.BytesIO(response.content))
        assert picture.width > 1500 and picture.height > 200

    def test_others_are_not_made(self, client: TestClient) -> None:
        assert client.get("/leaderboard", headers={"Accept": "text/html"}).status_code == 406


class TestBenchmarks:
    def test_a_set_without_rows_has_an_empty_board_in_every_form(self, client: TestClient) -> None:
        for accept in ("application/json", "text/csv", "text/markdown", "image/png"):
            response = client.get("/leaderboard?benchmark=unigenbench-zh", headers={"Accept": accept})
            assert response.status_code == 200
        assert client.get("/leaderboard?benchmark=unigenbench-zh").json()["rankings"] == []

    def test_an_unknown_one_is_told_what_there_is(self, client: TestClient) -> None:
        response = client.get("/leaderboard?benchmark=nothing")
        assert response.status_code == 404 and "unigenbench-en-long" in response.json()["detail"]

    def test_an_imported_one_of_another_name_has_a_board(self, client: TestClient, database: Database) -> None:
        with database.transaction() as session:
            store(session, benchmark().model_copy(update={"name": "our-own"}))
        assert client.get("/leaderboard?benchmark=our-own").json()["rankings"] == []


class TestTables:
    def test_rankings_stand_apart(self) -> None:
        made = board(row("a", 50), row("b", 60, judge="other"), row("c", 40, data_sha256=None))
        text = markdown(made)
        assert text.count("## ") == 3 and text.count("**50.00**") == text.count("**60.00**") == len(COLUMNS)
        assert "data not stated" in text and f"data {'d' * 12}," in text
        assert len(csv_table(made).splitlines()) == 4

    @pytest.mark.parametrize("name", ["a|b", "**a**", "<script>", "a\nb", "$x^2$", "`a`", "\\", "a" * 500])
    def test_names_stay_text(self, name: str) -> None:
        made = board(row(name, 50), row("b", None))
        lines = [line for line in markdown(made).splitlines() if line.startswith("| ")]
        assert len(lines) == 3
        assert all(line.replace("\\|", "").count("|") == len(COLUMNS) + 3 for line in lines)
        assert "<script>" not in markdown(made).replace("\\<", "")
        [first, _] = csv.DictReader(io.StringIO(csv_table(made), newline=""))
        assert first["model"] == name
        assert draw(made).startswith(b"\x89PNG")

    def test_many_rows_are_cut_in_the_figure_alone(self) -> None:
        made = board(*(row(f"model {number}", number / 10) for number in range(100)))
        assert len(csv_table(made).splitlines()) == 101
        assert Image.open(io.BytesIO(draw(made))).height < 4000
