"""`/evaluations`: creation, lifecycle and errors. Rows stand in for the work of workers."""

import threading
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from fastapi import FastAPI
from fastapi.testclient import TestClient
from httpx import Response
from sqlalchemy import delete, func, select

from service.api.benchmarks.service import store
from service.app import create_app
from service.contracts.catalog import JudgeEntry
from service.contracts.status import TERMINAL, JobStatus
from service.core.catalog_loader import CatalogLoader
from service.db import evaluation_scores as answers
from service.db.models import BenchmarkRow, Checkpoint, Evaluation, EvaluationAnswer, EvaluationImage, Garbage
from service.db.session import Database
from tests.service.conftest import LOOPBACK
from tests.service.records import waits_for_a_lock
from tests.service.unigenbench import EN, benchmark

SEER = JudgeEntry(name="seer", kind="openai", url="http://127.0.0.1:1/v1", model="seer-72b", token_env="SECRET_TOKEN")
BODY = {"model": "shapes-flux", "benchmark": EN.name, "judge": "seer", "num_images": 2}


@pytest.fixture(autouse=True)
def catalog(app: FastAPI, database: Database, tmp_path: Path) -> None:
    """A judge in the operator's catalog, and an imported benchmark of ten prompts."""
    file = tmp_path / "catalog.yaml"
    file.write_text(yaml.safe_dump({"extends": "bundled", "judges": [SEER.model_dump(mode="json")]}))
    app.state.catalog = CatalogLoader(file)
    with database.transaction() as session:
        store(session, benchmark())


def create(client: TestClient, **changes: Any) -> dict[str, Any]:
    response = client.post("/evaluations", json=BODY | changes)
    assert response.status_code == 202, response.text
    evaluation: dict[str, Any] = response.json()
    return evaluation


def ends(database: Database, id: str, status: JobStatus, judged: int = 0, failed: int = 0) -> None:
    """Record an attempt with the given numbers of judged images and unreadable answers, and its final status."""
    with database.transaction() as session:
        row = session.get_one(Evaluation, uuid.UUID(id))
        prompts = benchmark().prompts
        for place in range(judged + failed):
            name = {"evaluation_id": row.id, "index": place // 2, "image_index": place % 2}
            session.add(EvaluationImage(**name, seed=1, rewards={}, key=f"k{place}", sha256="", size=1))
            scores = [1] * len(prompts[place // 2].points) if place < judged else None
            failure = None if scores else "no_scores"
            session.add(EvaluationAnswer(**name, number=1, scores=scores, failure=failure, text="t", seconds=1.0))
        session.flush()
        row.attempt = 1
        for step in (JobStatus.STARTING, JobStatus.RUNNING, status):
            row.move_to(step)
        if status in TERMINAL:
            answers.score(session, row)


class TestCreate:
    def test_defaults_are_those_of_the_model(self, client: TestClient) -> None:
        response = client.post("/evaluations", json=BODY | {"name": "the base"})
        assert response.status_code == 202
        shown = response.json()
        assert response.headers["Location"] == f"/evaluations/{shown['id']}"
        spec = shown["spec"]
        assert (spec["steps"], spec["guidance"], spec["width"], spec["height"], spec["seed"]) == (8, 3.5, 32, 32, 3407)
        assert (shown["status"], shown["queue_position"], shown["total_images"]) == ("queued", 1, 20)
        assert (shown["judge"], shown["name"], shown["checkpoint"]) == ("seer-72b", "the base", "base")
        assert "SECRET_TOKEN" not in response.text
        assert client.get(response.headers["Location"]).json() == shown

    def test_a_limit_is_spaced_evenly_over_the_benchmark(self, client: TestClient, database: Database) -> None:
        shown = create(client, limit=4)
        assert (shown["prompts"], shown["benchmark_prompts"], shown["total_images"]) == (4, 10, 8)
        with database.sessions() as session:
            assert session.scalars(select(Evaluation.prompts)).one() == [0, 2, 5, 7]
        assert create(client, limit=99)["prompts"] == 10

    @pytest.mark.parametrize(
        ("changes", "field", "message"),
        [
            ({"benchmark": "nothing"}, "benchmark", "unigenbench-en"),
            ({"judge": "nobody"}, "judge", "perception, seer"),
            ({"judge": "perception"}, "judge", "supports only shapes-bench; other judges of the catalog: seer"),
            ({"model": "nothing"}, "model", "shapes-flux"),
            ({"rewards": ["clip_score", "nothing"]}, "rewards", "clip_score"),
            ({"checkpoint": "01a204c3-f0ca-74ae-8fde-44fae912a6da"}, "checkpoint", "not found"),
            ({"width": 64}, "width", "up to 32 pixels"),
            ({"num_images": 17}, "num_images", "16"),
        ],
    )
    def test_errors_name_the_field(self, client: TestClient, changes: dict[str, Any], field: str, message: str) -> None:
        response = client.post("/evaluations", json=BODY | changes)
        assert response.status_code == 422
        (error,) = response.json()["errors"]
        assert field in error["loc"] and message in error["msg"]

    def test_a_judge_or_rewards_are_required(self, client: TestClient) -> None:
        response = client.post("/evaluations", json=BODY | {"judge": None})
        assert response.status_code == 422 and "rewards" in response.text
        assert create(client, judge=None, rewards=["clip_score"])["judge"] is None

    def test_too_many_images(self, database: Database) -> None:
        few = create_app(database.settings.model_copy(update={"max_evaluation_images": 19}))
        with TestClient(few, base_url=LOOPBACK, client=("127.0.0.1", 50000)) as client:
            response = client.post("/evaluations", json=BODY | {"judge": None, "rewards": ["clip_score"]})
        assert response.status_code == 422 and "20 images" in response.json()["errors"][0]["msg"]

    def test_a_repeated_request_creates_one_evaluation(self, client: TestClient) -> None:
        first, again = (client.post("/evaluations", json=BODY, headers={"Idempotency-Key": "k"}) for _ in range(2))
        assert first.json()["id"] == again.json()["id"]
        other = client.post("/evaluations", json=BODY | {"seed": 1}, headers={"Idempotency-Key": "k"})
        assert other.status_code == 422

    def test_a_checkpoint_in_use_is_not_deleted(self, client: TestClient, records: Any) -> None:
        checkpoint = records.checkpoint(records.run(JobStatus.SUCCEEDED), {"w": b"w"})
        id = create(client, checkpoint=str(checkpoint.id))["id"]
        refused = client.delete(f"/checkpoints/{checkpoint.id}")
        assert refused.status_code == 409 and f"evaluation {id} uses it" in refused.text
        client.post(f"/evaluations/{id}/cancel")
        assert client.delete(f"/checkpoints/{checkpoint.id}").status_code == 204


class TestLifecycle:
    def test_scores_include_unreadable_answers(self, client: TestClient, database: Database) -> None:
        id = create(client)["id"]
        ends(database, id, JobStatus.SUCCEEDED, judged=17, failed=3)
        shown = client.get(f"/evaluations/{id}").json()
        assert (shown["images"], shown["judged"], shown["failed"]) == (20, 17, 3)
        assert shown["scores"]["micro"]["accuracy"] == 1.0 and shown["scores"]["failed_answers"] == 3
        assert shown["overall"] == shown["scores"]["overall"] == 1.0
        listed = client.get("/evaluations").json()["items"]
        assert [one["overall"] for one in listed] == [1.0]

    def test_resuming_needs_unreadable_answers(self, client: TestClient, database: Database) -> None:
        lacking, whole = create(client)["id"], create(client)["id"]
        ends(database, lacking, JobStatus.SUCCEEDED, judged=19, failed=1)
        ends(database, whole, JobStatus.SUCCEEDED, judged=20)
        resumed = client.post(f"/evaluations/{lacking}/resume")
        assert (resumed.status_code, resumed.json()["status"]) == (202, "queued")
        refused = client.post(f"/evaluations/{whole}/resume")
        assert (refused.status_code, refused.json()["code"]) == (409, "nothing_left")
        again = client.post(f"/evaluations/{lacking}/resume")
        assert again.status_code == 409 and "can be resumed when it has ended" in again.json()["detail"]

    def test_resuming_with_missing_images(self, client: TestClient, database: Database) -> None:
        refused, unjudged = create(client)["id"], create(client, judge=None, rewards=["clip_score"])["id"]
        ends(database, refused, JobStatus.SUCCEEDED, judged=20)
        with database.transaction() as session:
            session.execute(delete(EvaluationImage).where(EvaluationImage.key == "k19"))
        ends(database, unjudged, JobStatus.SUCCEEDED, judged=19)
        for id in (refused, unjudged):
            assert client.post(f"/evaluations/{id}/resume").status_code == 202

    def test_resuming_needs_the_checkpoint(self, client: TestClient, database: Database, records: Any) -> None:
        checkpoint = records.checkpoint(records.run(JobStatus.SUCCEEDED), {"w": b"w"})
        id = create(client, checkpoint=str(checkpoint.id))["id"]
        ends(database, id, JobStatus.FAILED, judged=4)
        assert client.delete(f"/checkpoints/{checkpoint.id}").status_code == 204
        refused = client.post(f"/evaluations/{id}/resume")
        assert (refused.status_code, refused.json()["code"]) == (409, "deleted")
        assert "was deleted" in refused.json()["detail"]

    def test_resuming_needs_an_undamaged_checkpoint(
        self, client: TestClient, database: Database, records: Any, tmp_path: Path
    ) -> None:
        checkpoint = records.checkpoint(records.run(JobStatus.SUCCEEDED), {"w": b"whole"})
        id = create(client, checkpoint=str(checkpoint.id))["id"]
        ends(database, id, JobStatus.FAILED, judged=4)

        def resumed_with(content: bytes) -> Response:
            (tmp_path / "w").write_bytes(content)
            database.artifacts.put_file(tmp_path / "w", f"{checkpoint.key}/w")
            return client.post(f"/evaluations/{id}/resume")

        refused, resumed = resumed_with(b"wh"), resumed_with(b"whole")
        assert (refused.status_code, refused.json()["code"]) == (409, "damaged_checkpoint")
        assert f"checkpoint {checkpoint.id} is damaged" in refused.json()["detail"]
        assert (resumed.status_code, resumed.json()["status"]) == (202, "queued")

    def test_resuming_locks_the_checkpoint_first(
        self,
        client: TestClient,
        database: Database,
        records: Any,
        eventually: Callable[[Callable[[], object]], None],
    ) -> None:
        checkpoint = records.checkpoint(records.run(JobStatus.SUCCEEDED), {"w": b"w"}).id
        id = create(client, checkpoint=str(checkpoint))["id"]
        ends(database, id, JobStatus.FAILED, judged=4)
        answers: list[Response] = []
        asking = threading.Thread(target=lambda: answers.append(client.post(f"/evaluations/{id}/resume")))
        try:
            with database.transaction() as session:
                session.get_one(Checkpoint, checkpoint, with_for_update=True)
                asking.start()
                eventually(lambda: answers or waits_for_a_lock(database))
                session.get_one(Evaluation, uuid.UUID(id), with_for_update={"nowait": True})
        finally:
            asking.join(60)
        assert [answer.status_code for answer in answers] == [202]

    def test_canceling_twice_has_no_further_effect(self, client: TestClient) -> None:
        id = create(client)["id"]
        first, again = (client.post(f"/evaluations/{id}/cancel") for _ in range(2))
        assert [one.json()["status"] for one in (first, again)] == ["cancelled", "cancelled"]
        notified = client.get(f"/evaluations/{id}/events", headers={"Prefer": "wait=5"}).text
        assert [line for line in notified.splitlines() if line.startswith("event:")] == [
            *("event: status", "event: status", "event: progress", "event: end")
        ]

    @pytest.mark.parametrize("status", [JobStatus.INTERRUPTED, JobStatus.QUEUED])
    def test_canceling_without_a_worker_scores_the_answers(
        self, client: TestClient, database: Database, status: JobStatus
    ) -> None:
        id = create(client)["id"]
        ends(database, id, JobStatus.INTERRUPTED, judged=3, failed=1)
        if status is JobStatus.QUEUED:  # resumed after a failure, without a worker yet
            with database.transaction() as session:
                row = session.get_one(Evaluation, uuid.UUID(id))
                row.move_to(JobStatus.FAILED)
                row.move_to(JobStatus.QUEUED)
        cancelled = client.post(f"/evaluations/{id}/cancel").json()
        assert (cancelled["status"], cancelled["scores"]["micro"]["accuracy"]) == ("cancelled", 1.0)
        assert (cancelled["scores"]["images"], cancelled["scores"]["failed_answers"]) == (3, 1)

    def test_without_an_attempt_there_are_no_scores(self, client: TestClient) -> None:
        id = create(client)["id"]
        assert client.post(f"/evaluations/{id}/cancel").json()["scores"] is None

    def test_deleting_includes_answers_and_files(self, client: TestClient, database: Database) -> None:
        id = create(client)["id"]
        assert client.delete(f"/evaluations/{id}").status_code == 409
        ends(database, id, JobStatus.SUCCEEDED, judged=2)
        assert client.delete(f"/evaluations/{id}").status_code == 204
        assert client.get(f"/evaluations/{id}").status_code == 404
        with database.sessions() as session:
            assert session.scalar(select(func.count()).select_from(EvaluationAnswer)) == 0
            assert session.scalars(select(Garbage.prefix)).all() == [f"evaluations/{id}"]

    def test_lists_are_filtered_and_paged(self, client: TestClient, database: Database) -> None:
        ids = [create(client, seed=seed)["id"] for seed in range(3)]
        ends(database, ids[0], JobStatus.SUCCEEDED)
        first = client.get("/evaluations", params={"limit": 2}).json()
        assert [one["id"] for one in first["items"]] == ids[:0:-1]
        rest = client.get("/evaluations", params={"limit": 2, "cursor": first["next_cursor"]}).json()
        assert [one["id"] for one in rest["items"]] == ids[:1]
        for query in ({"status": "succeeded"}, {"status": "succeeded", "model": "shapes-flux", "benchmark": EN.name}):
            assert [one["id"] for one in client.get("/evaluations", params=query).json()["items"]] == ids[:1]
        assert client.get("/evaluations", params={"benchmark": "other"}).json()["items"] == []

    def test_a_new_import_does_not_change_an_evaluation(self, client: TestClient, database: Database) -> None:
        shown = create(client)
        other = benchmark()
        with database.transaction() as session:
            store(session, other.model_copy(update={"prompts": other.prompts[:5]}))
        assert client.get(f"/evaluations/{shown['id']}").json()["content_sha256"] == shown["content_sha256"]
        assert create(client)["prompts"] == 5
        with database.sessions() as session:
            assert session.scalar(select(func.count()).select_from(BenchmarkRow)) == 2

    def test_unknown_evaluations_are_not_found(self, client: TestClient) -> None:
        id = "01a204c3-f0ca-74ae-8fde-44fae912a6da"
        for method, path in (("GET", ""), ("POST", "/cancel"), ("POST", "/resume"), ("DELETE", ""), ("GET", "/logs")):
            response = client.request(method, f"/evaluations/{id}{path}")
            assert response.status_code == 404 and response.json()["detail"].endswith("not found")
