"""`g2rpo benchmarks`: a checkout imported into the database, and files scored by a running service."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI
from sqlalchemy import func, select
from typer.testing import CliRunner, Result

from service.cli import app as commands
from service.client import ApiError, Client
from service.db.models import BenchmarkRow
from service.db.session import Database
from tests.service.unigenbench import EN, PROMPTS, ZH, prompts_csv, result_row, results_csv, rows, write_checkout


@pytest.fixture
def g2rpo(database: Database) -> Callable[..., Result]:
    """Runs a command on the test's database."""
    url = database.engine.url.render_as_string(hide_password=False)
    environment = {"G2RPO_DATABASE_URL": url, "COLUMNS": "300", "TERM": "dumb"}
    return lambda *words, **more: CliRunner().invoke(commands, [str(one) for one in words], env={**environment, **more})


@pytest.fixture
def served(app: FastAPI, serve: Callable[..., Any]) -> Iterator[str]:
    """The URL of the service."""
    with serve(app) as url:
        yield url


def count(database: Database) -> int:
    with database.sessions() as session:
        return session.scalar(select(func.count()).select_from(BenchmarkRow)) or 0


class TestImport:
    def test_a_checkout_is_imported_once(self, g2rpo: Any, database: Database, tmp_path: Path) -> None:
        checkout = write_checkout(tmp_path)
        first, again = g2rpo("benchmarks", "import", checkout), g2rpo("benchmarks", "import", checkout)
        assert first.exit_code == again.exit_code == 0, first.output
        assert first.stdout.splitlines() == [f"imported {EN.name}", *first.stdout.splitlines()[1:]]
        assert "unchanged: unigenbench-en" in again.stdout
        assert "10 prompts, 27 test points, not the official file" in first.stderr
        assert count(database) == 4

    def test_bad_rows_are_reported_and_skipped_on_request(self, g2rpo: Any, database: Database, tmp_path: Path) -> None:
        body = rows(EN)
        body[3][2] = body[3][2][:-1]
        body[4][2] = body[4][2].replace('", "', '" "', 1).replace('" "', '", "', 1)
        checkout = write_checkout(tmp_path, {EN.path: prompts_csv(EN, body)})
        refused = g2rpo("benchmarks", "import", checkout)
        assert refused.exit_code == 2
        assert "row 5 (index 3): invalid JSON" in refused.stderr and "--allow-bad-rows" in refused.stderr
        assert count(database) == 0
        done = g2rpo("benchmarks", "import", checkout, "--allow-bad-rows")
        assert done.exit_code == 0, done.output
        assert count(database) == 4

    @pytest.mark.parametrize("flag", [[], ["--allow-bad-rows"]])
    def test_other_directories_are_errors(
        self, g2rpo: Any, database: Database, tmp_path: Path, flag: list[str]
    ) -> None:
        done = g2rpo("benchmarks", "import", tmp_path, *flag)
        assert done.exit_code == 2
        assert "is not a checkout of UniGenBench" in done.stderr and "Traceback" not in done.output
        assert count(database) == 0

    def test_an_unavailable_database_is_an_error(self, g2rpo: Any, tmp_path: Path) -> None:
        done = g2rpo("benchmarks", "import", write_checkout(tmp_path), G2RPO_DATABASE_URL="postgresql://127.0.0.1:1/d")
        assert done.exit_code == 2 and "The database cannot be reached" in done.stderr


class TestServed:
    @pytest.fixture(autouse=True)
    def imported(self, g2rpo: Any, tmp_path: Path) -> None:
        assert g2rpo("benchmarks", "import", write_checkout(tmp_path / "checkout")).exit_code == 0

    def test_list_and_show(self, g2rpo: Any, served: str) -> None:
        listed = g2rpo("benchmarks", "list", G2RPO_URL=served).stdout
        assert EN.name in listed and "not the official file" in listed
        shown = g2rpo("benchmarks", "show", ZH.name, "--dimension", "Style", G2RPO_URL=served).stdout
        assert "风格" in shown and "index: 0" in shown and "index: 1" not in shown

    def test_rescore_prints_scores_and_writes_all_of_them(self, g2rpo: Any, served: str, tmp_path: Path) -> None:
        file, out = tmp_path / "oak_en.csv", tmp_path / "scores.json"
        file.write_text(
            results_csv([result_row(0, 0, (1, 0, 1)), result_row(0, 1, (1, 1, 1), result_json="", output="")])
        )
        done = g2rpo("benchmarks", "rescore", file, "--benchmark", EN.name, "--out", out, G2RPO_URL=served)
        assert done.exit_code == 0, done.output
        assert "1 answers failed {'no_answer': 1}" in done.stdout
        written = json.loads(out.read_text())
        assert written["scores"]["micro"]["correct"] == 2 and len(written["scores"]["points"]) == 27

    def test_an_invalid_file_is_an_error_in_one_line(self, g2rpo: Any, served: str, tmp_path: Path) -> None:
        file = tmp_path / "oak.csv"
        file.write_text("a,b\n")
        done = g2rpo("benchmarks", "rescore", file, "--benchmark", EN.name, G2RPO_URL=served)
        assert done.exit_code == 2 and "missing columns: index" in done.stderr and "Traceback" not in done.output
        other = g2rpo("benchmarks", "rescore", tmp_path / "checkout" / "eval" / "src" / "other.py", "--benchmark", "x")
        assert other.exit_code == 2 and "must end in one of .csv" in other.stderr

    def test_the_leaderboard_is_printed_and_written(self, g2rpo: Any, served: str, tmp_path: Path) -> None:
        assert "| G²RPO | **69.21** |" in g2rpo("leaderboard", "--benchmark", EN.name, G2RPO_URL=served).stdout
        for suffix, begins in ((".md", b"#"), (".csv", b"benchmark,"), (".png", b"\x89PNG")):
            out = tmp_path / f"board{suffix}"
            assert g2rpo("leaderboard", "--out", out, G2RPO_URL=served).exit_code == 0
            assert out.read_bytes().startswith(begins)
        assert g2rpo("leaderboard", "--out", tmp_path / "board.gif", G2RPO_URL=served).exit_code == 2

    def test_the_client_reads_all_pages(self, served: str) -> None:
        with Client(served) as client:
            assert len(list(client.benchmarks())) == 4 + 1
            assert [one.index for one in client.benchmark_prompts(EN.name)] == list(range(PROMPTS))
            assert [one.index for one in client.benchmark_prompts(EN.name, ["Action - State"])] == [3]
            assert client.leaderboard(EN.name).rankings[0].rows[0].model == "G²RPO"
            with pytest.raises(ApiError, match="Benchmark 'nothing' not found"):
                client.benchmark("nothing")
