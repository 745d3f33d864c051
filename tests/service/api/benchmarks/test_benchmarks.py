"""`/benchmarks`: imports, pages of prompts, and the newest import of a name."""

from typing import Any

import pytest
from fastapi.testclient import TestClient
from sqlalchemy import func, select

from service.api.benchmarks.service import current, store
from service.contracts.benchmarks.bundled import bundled
from service.contracts.benchmarks.data import Benchmark
from service.contracts.benchmarks.dimensions import SUB
from service.contracts.benchmarks.official import FILES
from service.db.models import BenchmarkRow
from service.db.session import Database
from tests.service.unigenbench import EN, EN_LONG, ZH, benchmark, prompts_csv, rows


def store_all(database: Database, *benchmarks: Benchmark) -> list[bool]:
    stored = []
    for one in benchmarks:
        with database.transaction() as session:
            stored.append(store(session, one))
    return stored


@pytest.fixture
def stored(database: Database) -> None:
    store_all(database, *(benchmark(file=file) for file in FILES))


def shown(client: TestClient, query: str = "", name: str = EN.name) -> dict[str, Any]:
    response = client.get(f"/benchmarks/{name}{query}")
    assert response.status_code == 200, response.text
    return dict(response.json())


class TestStore:
    def test_a_stored_benchmark_is_unchanged(self, database: Database) -> None:
        store_all(database, benchmark(file=ZH))
        with database.sessions() as session:
            assert current(session, ZH.name) == benchmark(file=ZH)

    def test_equal_content_is_stored_once(self, database: Database) -> None:
        assert store_all(database, benchmark(), benchmark(), benchmark()) == [True, False, False]
        with database.sessions() as session:
            assert session.scalar(select(func.count()).select_from(BenchmarkRow)) == 1

    def test_the_newest_import_of_a_name_counts_and_others_stay(self, database: Database) -> None:
        first, other = benchmark(), benchmark(prompts_csv(EN, rows(EN)[:5]).encode())
        assert store_all(database, first, other) == [True, True]
        with database.sessions() as session:
            assert current(session, EN.name) == other
        assert store_all(database, first) == [False]
        with database.sessions() as session:
            assert current(session, EN.name) == first
            assert session.scalar(select(func.count()).select_from(BenchmarkRow)) == 2

    def test_equal_prompts_from_another_file_have_its_hash(self, database: Database) -> None:
        again = benchmark((prompts_csv(EN) + "\n").encode())
        store_all(database, benchmark(), again)
        with database.sessions() as session:
            assert current(session, EN.name).data_sha256 == again.data_sha256
            assert session.scalars(select(BenchmarkRow.data_sha256)).all() == [again.data_sha256]


class TestList:
    def test_each_name_once_with_its_hashes(self, client: TestClient, database: Database, stored: None) -> None:
        store_all(database, benchmark(prompts_csv(EN, rows(EN)[:5]).encode()))
        items = client.get("/benchmarks").json()["items"]
        assert [one["name"] for one in items] == [bundled().name, *sorted(file.name for file in FILES)]
        first = items[1]
        assert (first["prompt_count"], first["language"], first["length"], first["pinned"]) == (5, "en", "short", False)
        read = benchmark(file=EN_LONG)
        assert items[2]["content_sha256"] == read.content_sha256
        assert read.judge and items[2]["template_sha256"] == read.judge.template_sha256
        assert items[2]["definitions_sha256"] == read.judge.definitions_sha256

    def test_pages(self, client: TestClient, stored: None) -> None:
        first = client.get("/benchmarks?limit=3").json()
        rest = client.get("/benchmarks", params={"limit": 3, "cursor": first["next_cursor"]}).json()
        assert len(first["items"]) == 3 and len(rest["items"]) == 2 and rest["next_cursor"] is None

    def test_without_imports_the_bundled_benchmark_is_listed(self, client: TestClient) -> None:
        [only] = client.get("/benchmarks").json()["items"]
        assert (only["name"], only["prompt_count"]) == ("shapes-bench", len(bundled().prompts))
        assert only["template_sha256"] is only["definitions_sha256"] is None


class TestBundled:
    def test_it_is_available_without_listing(self, client: TestClient) -> None:
        found = shown(client, "?dimension=Text%20Generation&limit=2", name="shapes-bench")
        assert found["judge"] is None
        assert found["content_sha256"] == bundled().content_sha256
        assert [one["text"].split()[0] for one in found["prompts"]["items"]] == ["the", "the"]

    def test_it_is_stored_once(self, client: TestClient, database: Database) -> None:
        first = client.get("/benchmarks").json()
        assert client.get("/benchmarks").json() == first
        with database.sessions() as session:
            assert session.scalar(select(func.count()).select_from(BenchmarkRow)) == 1
            assert current(session, bundled().name) == bundled()

    def test_in_a_transaction_the_caller_commits(self, database: Database) -> None:
        with database.sessions() as session:
            session.scalar(select(func.now()))
            assert current(session, bundled().name) == bundled()
            session.rollback()
            assert session.scalar(select(func.count()).select_from(BenchmarkRow)) == 0

    def test_older_content_is_replaced_by_that_of_this_version(self, database: Database) -> None:
        older = bundled().model_copy(update={"prompts": bundled().prompts[:5]})
        store_all(database, older)
        with database.sessions() as session:
            assert current(session, bundled().name) == bundled()

    def test_answers_on_it_are_scored(self, client: TestClient) -> None:
        prompt = bundled().prompts[0]
        row = {
            "index": prompt.index,
            "testpoint": [point.name for point in prompt.points],
            "result_json": {"score": [1] * len(prompt.points)},
            "output": "",
            "img_path": f"{prompt.index}_0.png",
        }
        answer = client.post("/benchmarks/shapes-bench/rescore?resamples=0", json=[row])
        assert answer.status_code == 200, answer.text
        assert answer.json()["scores"]["micro"]["accuracy"] == 1


class TestShow:
    def test_it_has_the_judges_prompt_counts_and_prompts(self, client: TestClient, stored: None) -> None:
        found = shown(client)
        assert found["dimensions"] == dict.fromkeys(SUB, 1)
        assert found["judge"]["template"] == benchmark().judge.template
        assert found["repairs"] == found["left_out"] == []
        assert found["prompts"]["items"][0] == benchmark().prompts[0].model_dump(mode="json")

    def test_prompts_are_paged_by_index(self, client: TestClient, database: Database) -> None:
        store_all(database, benchmark(prompts_csv(EN, rows(EN)[::-1]).encode()))
        indices, cursor = [], None
        while cursor is not None or not indices:
            page = client.get(
                f"/benchmarks/{EN.name}", params={"limit": 4, "cursor": cursor} if cursor else {"limit": 4}
            )
            cursor = page.json()["prompts"]["next_cursor"]
            indices += [one["index"] for one in page.json()["prompts"]["items"]]
        assert indices == list(range(10))

    @pytest.mark.parametrize(
        ("dimensions", "indices"),
        [
            (["Style"], [0]),
            (["Attribute"], [2, 3, 4, 5, 6, 7]),
            (["Attribute - Color"], [2]),
            (["Attribute - Color", "Text Generation"], [2, 6]),
            (["属性-颜色"], [2]),
            (["Attribute "], [2, 3, 4, 5, 6, 7]),
        ],
    )
    def test_by_dimension(self, client: TestClient, stored: None, dimensions: list[str], indices: list[int]) -> None:
        found = client.get(f"/benchmarks/{EN.name}", params={"dimension": dimensions}).json()
        assert [one["index"] for one in found["prompts"]["items"]] == indices
        assert found["prompt_count"] == 10

    def test_an_unknown_dimension_names_the_available_ones(self, client: TestClient, stored: None) -> None:
        response = client.get(f"/benchmarks/{EN.name}?dimension=Smell&dimension=Style")
        assert response.status_code == 422
        [error] = response.json()["errors"]
        assert (
            error["loc"] == ["query", "dimension"] and "'Smell'" in error["msg"] and "Logical Reasoning" in error["msg"]
        )

    def test_an_unknown_name_suggests_another(self, client: TestClient, stored: None) -> None:
        response = client.get("/benchmarks/unigenbnch-en")
        assert (response.status_code, response.json()["code"]) == (404, "not_found")
        detail = response.json()["detail"]
        assert detail.startswith("Benchmark 'unigenbnch-en' not found. Did you mean 'unigenbench-en'? Available: ")
        assert "shapes-bench, unigenbench-en, " in detail and "g2rpo benchmarks import" in detail
