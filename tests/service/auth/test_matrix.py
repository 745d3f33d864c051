"""Every route, by every state of a key and every scope. Routes are taken from the OpenAPI document: new ones too."""

import re
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from httpx import Response

from service.app import create_app
from service.auth.principal import Scope
from service.auth.scopes import PUBLIC, SCOPES
from service.contracts.generations import GenerationSpec
from service.contracts.status import JobStatus
from service.core.settings import Settings
from service.db.session import Database
from tests.service.document import document

ORDER = [None, *Scope]


@dataclass(frozen=True)
class Operation:
    """A method on a path, and an example of its body."""

    id: str
    method: str
    path: str
    body: Any

    def ask(self, client: TestClient, headers: dict[str, str], ids: dict[str, str] | None = None) -> Response:
        """Send it; `ids` fill the path, else ids that nothing has."""

        def fill(match: re.Match[str]) -> str:
            return (ids or {}).get(match[1], str(uuid.UUID(int=1)) if match[1].endswith("id") else "1")

        path = re.sub(r"\{([a-z_]+)(?::path)?\}", fill, self.path)
        return client.request(self.method, path, json=self.body, headers=headers)


def _operations() -> Iterator[Operation]:
    for path, methods in document()["paths"].items():
        for method, about in methods.items():
            content = about.get("requestBody", {}).get("content", {})
            examples = content.get("application/json", {}).get("examples", {})
            body = next(iter(examples.values()))["value"] if examples else None
            yield Operation(about["operationId"], method.upper(), path, body)


OPERATIONS = list(_operations())
GUARDED = [operation for operation in OPERATIONS if SCOPES.get(operation.id, Scope.ADMIN) is not None]


@pytest.fixture
def ids(records: Any, keys: Any) -> dict[str, str]:
    """Things that each route could show or change."""
    run = records.run(JobStatus.RUNNING)
    checkpoint = records.checkpoint(run, {"pytorch_lora_weights.safetensors": b"weights"})
    generation = records.generation(GenerationSpec(prompts=("x",)).model_dump(mode="json"))
    return {
        "run_id": str(run.id),
        "checkpoint_id": str(checkpoint.id),
        "name": "pytorch_lora_weights.safetensors",
        "generation_id": str(generation.id),
        "key_id": str(keys.make("read").row.id),
    }


def test_every_route_states_its_scope() -> None:
    assert {operation.id for operation in OPERATIONS} == SCOPES.keys()


def test_scopes_follow_what_routes_do() -> None:
    for operation in OPERATIONS:
        scope = SCOPES[operation.id]
        if operation.path in PUBLIC:
            expected: Scope | None = None
        elif operation.path.startswith("/keys"):
            expected = Scope.ADMIN
        else:
            pure = operation.path == "/plans" or operation.path.endswith("/rescore")
            reads = operation.method in ("GET", "HEAD") or pure
            expected = Scope.READ if reads else Scope.WRITE
        assert scope is expected, operation.id


@pytest.mark.parametrize(
    ("state", "code"),
    [
        ("missing", "key_missing"),
        ("malformed", "key_malformed"),
        ("unknown", "key_unknown"),
        ("revoked", "key_revoked"),
        ("expired", "key_expired"),
    ],
)
def test_without_a_good_key_nothing_is_shown_and_nothing_changes(
    client: TestClient,
    away: TestClient,
    contents: Callable[[], object],
    keys: Any,
    ids: dict[str, str],
    state: str,
    code: str,
) -> None:
    headers = keys.presented(state)
    before = contents()
    for machine in (client, away):
        for operation in GUARDED:
            answer = operation.ask(machine, headers, ids)
            assert answer.status_code == 401, operation
            assert answer.headers["WWW-Authenticate"].startswith("Bearer")
            assert answer.headers["content-type"] == "application/problem+json"
            assert (operation.method == "HEAD") or answer.json()["code"] == code, operation
    assert contents() == before


@pytest.mark.parametrize("scope", list(Scope))
def test_a_key_may_do_what_its_scope_says_and_no_more(
    away: TestClient, contents: Callable[[], object], keys: Any, ids: dict[str, str], scope: Scope
) -> None:
    headers = keys.presented("valid", scope)
    before = contents()
    too_much = [one for one in GUARDED if ORDER.index(SCOPES[one.id]) > ORDER.index(scope)]
    assert bool(too_much) is (scope is not Scope.ADMIN)
    for operation in too_much:
        answer = operation.ask(away, headers, ids)
        assert answer.status_code == 403, operation
        if operation.method != "HEAD":
            problem = answer.json()
            assert problem["code"] == "scope_missing"
            assert f"`{SCOPES[operation.id]}`" in problem["detail"] and f"has: {scope}" in problem["detail"]
    assert contents() == before
    for operation in (one for one in GUARDED if one not in too_much):
        answer = operation.ask(away, headers)
        assert answer.status_code not in (401, 403, 429, 500, 503), (operation, answer.text)


def test_what_needs_no_key_is_answered_whatever_is_shown(away: TestClient, keys: Any) -> None:
    keys.make()
    for state in ("missing", "malformed", "unknown", "revoked", "expired", "valid"):
        headers = keys.presented(state, "read")
        for path in PUBLIC:
            assert away.get(path, headers=headers).status_code == 200, (state, path)


def test_strangers_are_told_what_is_missing_but_not_where(
    settings: Settings, remote: Callable[[FastAPI], TestClient], keys: Any, database: Database
) -> None:
    lost = remote(create_app(settings.model_copy(update={"broker_url": "redis://secret-host.example:1/0"})))
    headers = keys.presented("valid", "read")
    for shown, details in ((headers, True), ({}, False), (keys.presented("unknown"), False)):
        answer = lost.get("/readyz", headers=shown)
        assert (answer.status_code, answer.json()["code"]) == (503, "not_ready")
        missing = {check["name"] for check in answer.json()["checks"] if not check["ok"]}
        assert missing == {"broker"}
        assert all(bool(check["detail"]) is details for check in answer.json()["checks"])
        assert ("G2RPO_BROKER_URL" in answer.text) is details


@pytest.mark.parametrize("path", ["/nowhere", "/runs/not-an-id/nothing", "/redoc", "/docs/oauth2-redirect"])
def test_what_is_no_route_is_told_to_good_keys_alone(away: TestClient, keys: Any, path: str) -> None:
    assert away.get(path, headers=keys.presented("valid", "read")).status_code in (200, 404)
    assert away.get(path).status_code == 401


def test_a_wrong_method_needs_a_good_key(away: TestClient, keys: Any) -> None:
    headers = keys.presented("valid", "read")
    assert away.put("/runs", headers=headers).status_code == 405
    assert away.put("/runs").status_code == 401


def test_a_route_that_states_no_scope_is_for_administrators(app: FastAPI, away: TestClient, keys: Any) -> None:
    operation = next(route for route in app.state.api_routes if route.operation_id == "listRuns")
    operation.operation_id = "unstated"
    try:
        assert away.get("/runs", headers=keys.presented("valid", "write")).status_code == 403
        assert away.get("/runs", headers=keys.presented("valid", "admin")).status_code == 200
    finally:
        operation.operation_id = "listRuns"


class TestOpenApi:
    def test_the_scheme_and_each_routes_scope_are_documented(self) -> None:
        assert document()["components"]["securitySchemes"]["key"]["scheme"] == "bearer"
        for methods in document()["paths"].values():
            for about in methods.values():
                scope = SCOPES[about["operationId"]]
                assert about["security"] == ([{"key": []}] if scope else [])
                assert scope is None or f"Needs the scope `{scope}`." in about["description"]
                assert scope is None or {"401", "403", "429"} <= about["responses"].keys()
