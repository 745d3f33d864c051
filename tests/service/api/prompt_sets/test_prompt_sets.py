"""`/prompt-sets`: from the upload of a file to a run that uses it."""

import itertools
import resource
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from sqlalchemy import event, select
from sqlalchemy.exc import TimeoutError as PoolTimeout

from service.contracts.status import JobStatus
from service.db.models import Garbage, PromptSet
from service.db.session import Database

TEXT = {"Content-Type": "text/plain"}
BOTH = {"prompts": {"set": "mine-train"}, "heldout": {"prompts": "mine-heldout"}}


def send(client: TestClient, data: Any, headers: dict[str, str] = TEXT, **query: Any) -> Any:
    return client.post("/prompt-sets", params={"name": "mine", **query}, content=data, headers=headers)


def many(count: int) -> bytes:
    return b"".join(b"prompt number %d\n" % number for number in range(count))


@contextmanager
def room_for(size: int) -> Iterator[None]:
    """Limit the size of this process's files to `size` bytes within the block, as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


class TestCreated:
    def test_a_created_set_is_shown_listed_and_read(self, client: TestClient) -> None:
        created = send(client, b" a red circle\n\na  red circle\na blue square\n", description="two")
        assert (created.status_code, created.headers["Location"]) == (201, "/prompt-sets/mine"), created.text
        [shown] = created.json()["prompt_sets"]
        assert shown["counts"] == {"lines": 4, "kept": 2, "duplicates": 1, "blank": 1, "unusable": 0}
        assert client.get("/prompt-sets/mine").json() == shown
        assert (shown["origin"], shown["prompts"], shown["description"]) == ("uploaded", 2, "two")
        items = client.get("/prompt-sets/mine/items").json()
        assert [(one["index"], one["prompt"]) for one in items["items"]] == [(0, "a red circle"), (1, "a blue square")]
        assert items["next_cursor"] is None

    def test_lists_include_catalog_sets_in_pages(self, client: TestClient, records: Any) -> None:
        for name in ("zebra", "aardvark"):
            records.prompt_set(name, ["x"])
        names: list[str] = []
        cursor = None
        while True:
            page = client.get("/prompt-sets", params={"limit": 1} | ({"cursor": cursor} if cursor else {})).json()
            names += [one["name"] for one in page["items"]]
            if (cursor := page["next_cursor"]) is None:
                break
        bundled = ["shapes-bench-heldout", "shapes-bench-train", "shapes-heldout", "shapes-train"]
        assert names == ["aardvark", *bundled, "zebra"]

    def test_a_full_disk_is_an_error_and_leaves_no_files(self, client: TestClient) -> None:
        with room_for(2**20):
            answer = send(client, many(100_000))
        assert (answer.status_code, answer.json()["code"]) == (503, "disk_full"), answer.text
        assert client.get("/prompt-sets/mine").status_code == 404
        assert send(client, many(100_000)).status_code == 201

    def test_prompts_are_paged_and_a_cursor_belongs_to_its_set(self, client: TestClient) -> None:
        send(client, many(5))
        first = client.get("/prompt-sets/mine/items", params={"limit": 3}).json()
        rest = client.get("/prompt-sets/mine/items", params={"limit": 3, "cursor": first["next_cursor"]}).json()
        shown = [one["prompt"] for one in first["items"] + rest["items"]]
        assert shown == [f"prompt number {number}" for number in range(5)]
        assert (rest["items"][0]["index"], rest["next_cursor"]) == (3, None)
        client.delete("/prompt-sets/mine")
        send(client, many(6))
        stale = client.get("/prompt-sets/mine/items", params={"cursor": first["next_cursor"]})
        assert (stale.status_code, stale.json()["errors"][0]["type"]) == (422, "cursor_invalid")

    def test_a_split_creates_two_sets(self, client: TestClient) -> None:
        created = send(client, many(10), heldout=3).json()["prompt_sets"]
        assert [(one["name"], one["prompts"]) for one in created] == [("mine-train", 7), ("mine-heldout", 3)]
        assert created[1]["split"] == {"part": "heldout", "heldout": 3.0, "seed": 0}
        assert send(client, many(10), name="other", heldout=10).status_code == 422
        assert send(client, many(10), name="other", heldout=1.5).status_code == 422

    def test_a_repeated_upload_is_stored_once(self, client: TestClient, database: Database) -> None:
        headers = {**TEXT, "Idempotency-Key": "prompts-1"}
        first, again = (send(client, b"a red circle", headers) for _ in range(2))
        assert first.json() == again.json() and again.headers["Idempotency-Replayed"] == "true"
        with database.transaction() as session:
            assert len(session.scalars(select(PromptSet)).all()) == 1
            assert len(session.scalars(select(Garbage)).all()) == 1  # the files stored by the second request
        client.delete("/prompt-sets/mine")
        assert send(client, b"a red circle", headers).status_code == 410

    def test_a_lost_connection_after_the_commit_loses_only_the_response(
        self, app: FastAPI, client: TestClient, database: Database
    ) -> None:
        engine, adding = app.state.database.engine, []

        def note(_connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
            if statement.startswith("INSERT INTO prompt_sets"):
                adding.append(threading.get_ident())

        def refuse(*_: Any) -> None:
            if threading.get_ident() in adding:
                adding.clear()
                raise PoolTimeout("every connection is taken")

        event.listen(engine, "before_cursor_execute", note)
        event.listen(engine, "checkout", refuse)
        headers = {**TEXT, "Idempotency-Key": "prompts-1"}
        assert send(client, b"a red circle", headers).status_code == 503
        with database.transaction() as session:
            assert session.scalars(select(Garbage.prefix)).all() == []
        again = send(client, b"a red circle", headers)
        assert (again.status_code, again.headers["Idempotency-Replayed"]) == (201, "true")


class TestRefused:
    @pytest.mark.parametrize("name", ["mine", "shapes-train"])
    def test_an_existing_name_is_rejected(self, client: TestClient, database: Database, name: str) -> None:
        send(client, b"a red circle")
        taken = send(client, b"a blue square", name=name)
        assert (taken.status_code, taken.json()["code"]) == (409, "name_taken")
        with database.transaction() as session:
            assert len(session.scalars(select(Garbage)).all()) == 1

    @pytest.mark.parametrize("kind", ["application/json", "text/plain; charset=latin-1", "", "text/csvx"])
    def test_another_kind_of_body(self, client: TestClient, kind: str) -> None:
        refused = send(client, b"a red circle", {"Content-Type": kind})
        assert (refused.status_code, refused.json()["code"]) == (415, "unsupported_media_type")

    def test_bad_lines_with_their_numbers(self, client: TestClient, database: Database) -> None:
        refused = send(client, b"fine\nbad\x01\n").json()
        assert (refused["status"], refused["errors"][0]["loc"]) == (422, ["body", 2])
        assert not list(database.artifacts.names("prompt-sets"))
        stored = send(client, b"fine\nbad\x01\n", skip_bad=True).json()
        assert (stored["prompt_sets"][0]["prompts"], stored["left_out"][0]["loc"]) == (1, ["body", 2])

    def test_a_million_equal_lines_are_one_prompt(self, client: TestClient) -> None:
        counts = send(client, b"a red circle\n" * 1_000_000).json()["prompt_sets"][0]["counts"]
        assert (counts["kept"], counts["duplicates"]) == (1, 999_999)

    def test_200_megabytes_are_rejected_with_little_memory(self, app: FastAPI, serve: Callable[..., Any]) -> None:
        block = b"a red circle above a blue square\n" * 2000

        def stream() -> Iterator[bytes]:
            yield from itertools.repeat(block, 200 * 2**20 // len(block))

        with serve(app) as url:
            before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
            refused = httpx.post(f"{url}/prompt-sets", params={"name": "mine"}, content=stream(), headers=TEXT)
        assert (refused.status_code, refused.json()["code"]) == (413, "body_too_large")
        grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
        assert grown < 32 * 1024  # KiB; more than twice this amount had been received

    def test_a_set_of_the_catalog_cannot_be_deleted(self, client: TestClient) -> None:
        assert client.get("/prompt-sets/shapes-train").json()["origin"] == "catalog"
        assert client.delete("/prompt-sets/shapes-train").json()["code"] == "of_catalog"
        assert client.get("/prompt-sets/shapes-train/items").status_code == 404
        for method in ("GET", "DELETE"):
            assert client.request(method, "/prompt-sets/nothing").status_code == 404


class TestRuns:
    def test_a_run_uses_the_sets_of_its_creation(self, client: TestClient, database: Database) -> None:
        created = send(client, many(10), heldout=0.5).json()["prompt_sets"]
        run = client.post("/runs", json=BOTH).json()
        assert run["prompt_sets"] == {one["name"]: one["id"] for one in created}
        assert not [one for one in run["plan"]["warnings"] if "catalog" in one]
        planned = client.post("/plans", json=BOTH).json()
        assert not [one for one in planned["warnings"] if "catalog" in one]

    def test_an_unknown_name_is_an_error_with_the_available_names(self, client: TestClient) -> None:
        send(client, b"a red circle")
        refused = client.post("/runs", json={"prompts": {"set": "yours"}}).json()
        assert refused["errors"][0]["loc"] == ["body", "prompts", "set"]
        assert "shapes-train" in refused["detail"] and "uploaded sets: mine" in refused["detail"]

    @pytest.mark.parametrize("status", [JobStatus.QUEUED, JobStatus.RUNNING, JobStatus.PAUSED, JobStatus.INTERRUPTED])
    def test_a_set_of_an_open_run_is_not_deleted(self, client: TestClient, records: Any, status: JobStatus) -> None:
        stored = records.prompt_set("mine", ["a red circle"])
        run = records.run(status, prompt_sets={"mine": str(stored.id)})
        refused = client.delete("/prompt-sets/mine")
        assert (refused.status_code, refused.json()["code"]) == (409, "in_use")
        assert str(run.id) in refused.json()["detail"]

    def test_a_deleted_name_is_available_and_its_ended_runs_cannot_resume(
        self, client: TestClient, records: Any, database: Database
    ) -> None:
        old = records.prompt_set("mine", ["a red circle"])
        run = records.run(JobStatus.FAILED, prompt_sets={"mine": str(old.id)})
        records.checkpoint(run, {"pytorch_lora_weights.safetensors": b"w"})
        assert client.delete("/prompt-sets/mine").status_code == 204
        with database.transaction() as session:
            assert session.scalars(select(Garbage.prefix)).all() == [f"prompt-sets/{old.id}"]
        assert send(client, b"a blue square").status_code == 201
        assert client.post(f"/runs/{run.id}/resume").json()["code"] == "deleted_prompt_set"
        clone = client.post(f"/runs/{run.id}/clone", json={"prompts": {"set": "mine"}}).json()
        assert clone["prompt_sets"]["mine"] not in ("", str(old.id))
