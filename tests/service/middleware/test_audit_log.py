"""The audit log."""

from collections.abc import Callable
from typing import Any

import pytest
from fastapi.testclient import TestClient

Trail = Callable[[], list[dict[str, Any]]]


@pytest.fixture
def trail(caplog: pytest.LogCaptureFixture) -> Trail:
    """The lines since the last call."""

    def lines() -> list[dict[str, Any]]:
        found = [dict(record.msg) for record in caplog.records if record.name == "service.audit"]
        caplog.clear()
        return found

    return lines


def shown(secret: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {secret}"}


def test_a_change_is_logged_at_any_log_level(away: TestClient, keys: Any, trail: Trail) -> None:
    created = keys.make("write")
    answer = away.post("/runs", json={"name": "private"}, headers={**shown(created.secret), "X-Request-ID": "mine"})
    (line,) = trail()
    assert (
        line.items()
        >= {
            "event": "audit",
            "request_id": "mine",
            "key_id": str(created.row.id),
            "key_name": created.row.name,
            "key_prefix": created.row.prefix,
            "client": "203.0.113.9",
            "method": "POST",
            "route": "/runs",
            "resource": answer.headers["Location"],
            "status": 202,
            "code": None,
            "replayed": False,
        }.items()
    )
    assert line["time"]
    assert "private" not in str(line)


def test_ids_of_the_path_and_replays_are_logged(away: TestClient, keys: Any, trail: Trail) -> None:
    headers = shown(keys.make("write").secret)
    run = away.post("/runs", json={}, headers=headers).json()["id"]
    for _ in range(2):
        away.post(f"/runs/{run}/cancel", headers={**headers, "Idempotency-Key": "once"})
    _, first, again = trail()
    for line in (first, again):
        assert (line["route"], line["ids"]) == ("/runs/{run_id}/cancel", {"run_id": run})
        assert line["resource"] == f"/runs/{run}/cancel"
    assert (first["replayed"], again["replayed"]) == (False, True)


def test_without_keys_the_principal_is_local(client: TestClient, trail: Trail) -> None:
    client.post("/runs", json={})
    (line,) = trail()
    assert (line["key_id"], line["key_name"], line["client"]) == (None, "local", "127.0.0.1")


def test_rejected_changes_have_a_code(client: TestClient, trail: Trail) -> None:
    client.post("/runs", json={"model": "unheard-of"})
    (line,) = trail()
    assert (line["status"], line["code"]) == (422, "invalid_request")


@pytest.mark.parametrize(
    ("state", "scope", "status", "code"),
    [
        ("missing", "", 401, "key_missing"),
        ("malformed", "", 401, "key_malformed"),
        ("unknown", "", 401, "key_unknown"),
        ("revoked", "admin", 401, "key_revoked"),
        ("expired", "admin", 401, "key_expired"),
        ("valid", "read", 403, "scope_missing"),
    ],
)
def test_refused_requests_are_logged_also_when_reading(
    away: TestClient, keys: Any, trail: Trail, state: str, scope: str, status: int, code: str
) -> None:
    keys.make()
    away.get("/keys", headers=keys.presented(state, scope))
    (line,) = trail()
    assert (line["status"], line["code"], line["route"]) == (status, code, "/keys")


def test_rate_limited_requests_are_logged(away: TestClient, keys: Any, trail: Trail) -> None:
    created = keys.make("read", requests_per_minute=1)
    for _ in range(2):
        away.get("/runs", headers=shown(created.secret))
    (line,) = trail()
    assert (line["status"], line["code"]) == (429, "rate_limited")


def test_a_name_is_logged_only_if_the_resource_exists(client: TestClient, records: Any, trail: Trail) -> None:
    records.prompt_set("mine", ["a red circle"])
    for _ in range(2):
        client.delete("/prompt-sets/mine")
    found, unknown = trail()
    assert (found["ids"], found["resource"], found["status"]) == ({"name": "mine"}, "/prompt-sets/mine", 204)
    assert (unknown["ids"], unknown["status"]) == ({}, 404)


def test_reading_and_planning_are_not_logged(client: TestClient, trail: Trail) -> None:
    client.get("/runs")
    client.get("/runs/nothing")
    client.post("/plans", json={})
    client.post("/benchmarks/nothing/rescore", content=b"", headers={"Content-Type": "text/csv"})
    assert trail() == []
