"""`Idempotency-Key`: a request is executed once, even if it is repeated on several connections."""

import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from fastapi.testclient import TestClient
from httpx import Response
from sqlalchemy import func, select, text

from service.api.scores import router
from service.contracts.status import JobStatus
from service.db.events import notify_job
from service.db.models import Evaluation, Generation, IdempotencyKey, Run, Score
from service.db.session import Database
from tests.service.document import document

GENERATION = {"prompts": ["a red circle"]}
EVALUATION = {"benchmark": "shapes-bench", "judge": "perception", "limit": 1}
SCORE = {"rewards": ["clip_score"], "images": router.EXAMPLE["images"]}
JOBS = {"/runs": {}, "/generate": GENERATION, "/evaluations": EVALUATION, "/score": SCORE}


def key(name: str = "mine-1") -> dict[str, str]:
    return {"Idempotency-Key": name}


def rows(database: Database, model: type[Run | Generation | Evaluation | Score | IdempotencyKey]) -> int:
    with database.sessions() as session:
        return session.scalar(select(func.count()).select_from(model)) or 0


@pytest.mark.parametrize(("path", "body", "model"), [("/runs", {}, Run), ("/generate", GENERATION, Generation)])
class TestMaking:
    def test_a_repeated_request_returns_the_created_resource(
        self, client: TestClient, database: Database, path: str, body: dict[str, object], model: type[Run | Generation]
    ) -> None:
        first, again = (client.post(path, json=body, headers=key()) for _ in range(2))
        assert (first.status_code, again.status_code) == (202, 202)
        assert first.json()["id"] == again.json()["id"]
        assert first.headers["Location"] == again.headers["Location"]
        assert "Idempotency-Replayed" not in first.headers
        assert again.headers["Idempotency-Replayed"] == "true"
        assert rows(database, model) == 1

    def test_requests_with_other_keys_or_no_key_are_separate(
        self, client: TestClient, database: Database, path: str, body: dict[str, object], model: type[Run | Generation]
    ) -> None:
        for headers in (key("a"), key("b"), {}, {}):
            assert client.post(path, json=body, headers=headers).status_code == 202
        assert rows(database, model) == 4

    def test_concurrent_requests_create_one_resource(
        self, client: TestClient, database: Database, path: str, body: dict[str, object], model: type[Run | Generation]
    ) -> None:
        def ask(_: int) -> Response:
            return client.post(path, json=body, headers=key())

        with ThreadPoolExecutor(8) as pool:
            answers = list(pool.map(ask, range(16)))
        assert {answer.status_code for answer in answers} == {202}
        assert len({answer.json()["id"] for answer in answers}) == 1
        assert sum("Idempotency-Replayed" not in answer.headers for answer in answers) == 1
        assert rows(database, model) == 1


def test_another_body_path_or_query_under_the_same_key_is_rejected(client: TestClient, database: Database) -> None:
    created = client.post("/runs", json={}, headers=key())
    for other in (
        client.post("/runs", json={"name": "other"}, headers=key()),
        client.post("/generate", json=GENERATION, headers=key()),
        client.post(f"{created.headers['Location']}/cancel", headers=key()),
    ):
        assert (other.status_code, other.json()["code"]) == (422, "idempotency_mismatch")
        assert "use a new key" in other.json()["detail"]
    assert (rows(database, Run), rows(database, Generation)) == (1, 0)
    headers = {**key("query"), "Content-Type": "text/plain"}
    first, other = (client.post(f"/prompt-sets?name={name}", content="a red circle", headers=headers) for name in "ab")
    assert (first.status_code, other.json()["code"]) == (201, "idempotency_mismatch")


def test_a_rejected_request_does_not_use_its_key(client: TestClient) -> None:
    refused = client.post("/runs", json={"model": "unheard-of"}, headers=key())
    assert refused.status_code == 422
    assert client.post("/runs", json={}, headers=key()).status_code == 202


def test_a_repeated_cancellation_does_not_affect_later_changes(client: TestClient, database: Database) -> None:
    for created in (client.post("/runs", json={}), client.post("/generate", json=GENERATION)):
        cancel = f"{created.headers['Location']}/cancel"
        first, again = (client.post(cancel, headers=key(created.json()["id"])) for _ in range(2))
        assert (first.json()["status"], again.json()["status"]) == ("cancelled", "cancelled")
        assert again.headers["Idempotency-Replayed"] == "true"


def test_a_repeated_cancellation_after_resuming_has_no_effect(client: TestClient, database: Database) -> None:
    created = client.post("/runs", json={}).json()
    assert client.post(f"/runs/{created['id']}/cancel", headers=key()).json()["status"] == "cancelled"
    with database.transaction() as session:
        session.get_one(Run, uuid.UUID(created["id"])).move_to(JobStatus.QUEUED)
    assert client.post(f"/runs/{created['id']}/cancel", headers=key()).json()["status"] == "queued"


def test_a_repeated_clone_request_works_after_its_parent_was_deleted(client: TestClient, records: Any) -> None:
    parent = records.run(JobStatus.SUCCEEDED)
    clone = f"/runs/{parent.id}/clone"
    first = client.post(clone, json={"name": "other"}, headers=key())
    assert client.delete(f"/runs/{parent.id}").status_code == 204

    again = client.post(clone, json={"name": "other"}, headers=key())

    assert (first.status_code, again.status_code) == (202, 202)
    assert again.json() == {**first.json(), "parent_id": None}
    assert again.headers["Location"] == first.headers["Location"]
    assert again.headers["Idempotency-Replayed"] == "true"
    assert client.post(clone, json={"name": "other"}, headers=key("new")).status_code == 404


class TestDeleted:
    @pytest.mark.parametrize(("path", "body"), [*JOBS.items(), ("/runs/{parent}/clone", {})])
    def test_a_deleted_resource_is_not_created_again(
        self, client: TestClient, records: Any, database: Database, path: str, body: dict[str, Any]
    ) -> None:
        path = path.format(parent=records.run(JobStatus.SUCCEEDED).id)
        created = client.post(path, json=body, headers=key()).headers["Location"]
        assert client.post(f"{created}/cancel").json()["status"] == "cancelled"
        assert client.delete(created).status_code == 204

        again = client.post(path, json=body, headers=key())

        assert (again.status_code, again.json()["code"]) == (410, "deleted")
        assert created.rpartition("/")[2] in again.json()["detail"]
        assert [rows(database, model) for model in (Run, Generation, Evaluation, Score)] == [1, 0, 0, 0]

    @pytest.mark.parametrize(("path", "model"), [("/generate", Generation), ("/score", Score)])
    def test_a_deletion_during_a_waiting_request_is_reported(
        self,
        client: TestClient,
        database: Database,
        eventually: Callable[[Callable[[], object]], None],
        path: str,
        model: type[Generation | Score],
    ) -> None:
        with ThreadPoolExecutor(1) as pool:
            response = pool.submit(client.post, path, json=JOBS[path], headers={"Prefer": "wait=60"})
            eventually(lambda: rows(database, model) == 1)
            with database.transaction() as session:
                row = session.scalars(select(model)).one()
                session.delete(row)
                notify_job(session, model.KIND, row.id)
        assert (response.result().status_code, response.result().json()["code"]) == (410, "deleted")

    @pytest.mark.parametrize("path", [*JOBS, "/runs/{run_id}/clone"])
    def test_the_response_is_documented(self, path: str) -> None:
        assert "410" in document()["paths"][path]["post"]["responses"]


def test_a_plan_accepts_a_key_and_stores_nothing(client: TestClient, database: Database) -> None:
    assert client.post("/plans", json={}, headers=key()).status_code == 200
    assert client.post("/plans", json={"training": {"max_steps": 5}}, headers=key()).status_code == 200
    assert rows(database, IdempotencyKey) == 0


@pytest.mark.parametrize("path", ["/runs", "/generate", "/plans"])
def test_a_key_is_visible_ascii_of_at_most_255_characters(client: TestClient, path: str) -> None:
    body = GENERATION if path == "/generate" else {}
    for bad in ("", "x" * 256, "two words", "caf\xe9"):
        answer = client.post(path, json=body, headers={b"Idempotency-Key": bad.encode("latin-1")})
        assert answer.status_code == 422, bad
        assert answer.json()["errors"][0]["loc"] == ["header", "Idempotency-Key"]
    assert client.post(path, json=body, headers=key("x" * 255)).status_code < 300


def test_two_idempotency_headers_are_rejected(client: TestClient) -> None:
    twice = [("Idempotency-Key", "a"), ("Idempotency-Key", "b")]
    assert client.post("/runs", json={}, headers=twice).status_code == 422


@pytest.fixture
def locked(client: TestClient, database: Database) -> Iterator[str]:
    """A key whose first request does not finish."""
    with database.engine.connect() as connection:
        connection.execute(
            text("INSERT INTO idempotency_keys (scope, key, fingerprint) VALUES (:scope, 'held', 'x')"),
            {"scope": uuid.UUID(int=0)},
        )
        yield "held"


def test_waiting_for_a_concurrent_request_times_out(
    client: TestClient, locked: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("service.api.idempotency._LOCK_TIMEOUT", "20ms")
    answer = client.post("/runs", json={}, headers=key(locked))
    assert (answer.status_code, answer.json()["code"]) == (409, "idempotency_in_progress")
    assert answer.headers["Retry-After"]
    assert client.post("/runs", json={}, headers=key("another")).status_code == 202
