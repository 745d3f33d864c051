"""Every route of the application with every key state and every scope."""

import json
import re
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from httpx import Response

from service.api.routing import ApiRoute, Declaration
from service.app import PUBLIC, ROUTERS, create_app
from service.auth.principal import Scope
from service.contracts.generations import GenerationSpec
from service.contracts.status import JobStatus
from service.core.settings import Settings
from service.db.session import Database
from tests.service.document import document

ORDER = [None, *Scope]


ROUTES = [route for router in ROUTERS for route in router.routes if isinstance(route, ApiRoute)]


@dataclass(frozen=True)
class Operation:
    """A method of a path, with an example of its body."""

    id: str
    method: str
    path: str
    declaration: Declaration
    documented: dict[str, Any]

    @property
    def scope(self) -> Scope | None:
        return self.declaration.scope

    @property
    def body(self) -> Any:
        content = self.documented.get("requestBody", {}).get("content", {})
        examples = content.get("application/json", {}).get("examples", {})
        return next(iter(examples.values()))["value"] if examples else None

    def send(self, client: TestClient, headers: dict[str, str], ids: dict[str, str] | None = None) -> Response:
        """Send the request; `ids` fill the path, by default ids that do not exist."""

        def fill(match: re.Match[str]) -> str:
            return (ids or {}).get(match[1], str(uuid.UUID(int=1)) if match[1].endswith("id") else "1")

        path = re.sub(r"\{([a-z_]+)(?::path)?\}", fill, self.path)
        return client.request(self.method, path, json=self.body, headers=headers)


def _operations() -> Iterator[Operation]:
    for route in ROUTES:
        for method in sorted(route.methods):
            documented = document()["paths"][route.path_format][method.lower()]
            assert documented["operationId"] == route.operation_id
            yield Operation(str(route.operation_id), method, route.path, route.declaration, documented)


OPERATIONS = list(_operations())
GUARDED = [operation for operation in OPERATIONS if operation.scope is not None]


@pytest.fixture
def ids(records: Any, keys: Any) -> dict[str, str]:
    """Resources that each route could show or change."""
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


def test_every_route_has_a_declaration() -> None:
    print(f"\n{'method':6} {'path':50} {'scope':6} {'body limit':20} cacheable example")
    for operation in OPERATIONS:
        about = operation.declaration
        has_example = "example" in json.dumps(operation.documented)
        scope, cacheable = str(about.scope or "-"), str(about.cacheable)
        print(f"{operation.method:6} {operation.path:50} {scope:6} {about.max_body:20} {cacheable:9} {has_example}")
    assert not [route.path for route in ROUTES if not hasattr(route.endpoint, "declaration")]
    documented = sum(len(methods) for methods in document()["paths"].values())
    assert len(OPERATIONS) == documented


def test_declarations_match_what_routes_do() -> None:
    for operation in OPERATIONS:
        about = operation.declaration
        reads = operation.method in ("GET", "HEAD") or about.reads_only
        if operation.path in ("/", "/healthz", "/readyz"):
            expected: Scope | None = None
        elif operation.path.startswith("/keys"):
            expected = Scope.ADMIN
        else:
            expected = Scope.READ if reads else Scope.WRITE
        assert operation.scope is expected, operation.id
        assert not about.cacheable or operation.method == "GET", operation.id
        assert not about.reads_only or operation.method == "POST", operation.id
        streams = "requestBody" in operation.documented and operation.body is None
        reads_json = about.max_body in ("max_json_bytes", "max_body_bytes")
        assert reads_json is not streams or operation.path.endswith("/rescore"), operation.id
    assert {operation.path for operation in OPERATIONS if operation.declaration.reads_only} == {
        "/plans",
        "/benchmarks/{name}/rescore",
    }


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
def test_without_a_valid_key_nothing_is_shown_and_nothing_changes(
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
            response = operation.send(machine, headers, ids)
            assert response.status_code == 401, operation
            assert response.headers["WWW-Authenticate"].startswith("Bearer")
            assert response.headers["content-type"] == "application/problem+json"
            assert (operation.method == "HEAD") or response.json()["code"] == code, operation
    assert contents() == before


@pytest.mark.parametrize("scope", list(Scope))
def test_a_key_is_limited_to_its_scope(
    away: TestClient, contents: Callable[[], object], keys: Any, ids: dict[str, str], scope: Scope
) -> None:
    headers = keys.presented("valid", scope)
    before = contents()
    forbidden = [operation for operation in GUARDED if ORDER.index(operation.scope) > ORDER.index(scope)]
    assert bool(forbidden) is (scope is not Scope.ADMIN)
    for operation in forbidden:
        response = operation.send(away, headers, ids)
        assert response.status_code == 403, operation
        if operation.method != "HEAD":
            problem = response.json()
            assert problem["code"] == "scope_missing"
            assert f"`{operation.scope}`" in problem["detail"] and f"has: {scope}" in problem["detail"]
    assert contents() == before
    for operation in (operation for operation in GUARDED if operation not in forbidden):
        response = operation.send(away, headers)
        assert response.status_code not in (401, 403, 429, 500, 503), (operation, response.text)


def test_public_paths_need_no_key(away: TestClient, keys: Any) -> None:
    keys.make()
    for state in ("missing", "malformed", "unknown", "revoked", "expired", "valid"):
        headers = keys.presented(state, "read")
        for path in (*PUBLIC, *(operation.path for operation in OPERATIONS if operation.scope is None)):
            assert away.get(path, headers=headers).status_code == 200, (state, path)


def test_readiness_shows_details_only_with_a_valid_key(
    settings: Settings, remote: Callable[[FastAPI], TestClient], keys: Any, database: Database
) -> None:
    lost = remote(create_app(settings.model_copy(update={"broker_url": "redis://secret-host.example:1/0"})))
    headers = keys.presented("valid", "read")
    for shown, details in ((headers, True), ({}, False), (keys.presented("unknown"), False)):
        response = lost.get("/readyz", headers=shown)
        assert (response.status_code, response.json()["code"]) == (503, "not_ready")
        missing = {check["name"] for check in response.json()["checks"] if not check["ok"]}
        assert missing == {"broker"}
        assert all(bool(check["detail"]) is details for check in response.json()["checks"])
        assert ("G2RPO_BROKER_URL" in response.text) is details


@pytest.mark.parametrize("path", ["/nowhere", "/runs/not-an-id/nothing", "/redoc", "/docs/oauth2-redirect"])
def test_unknown_routes_need_a_valid_key(away: TestClient, keys: Any, path: str) -> None:
    assert away.get(path, headers=keys.presented("valid", "read")).status_code in (200, 404)
    assert away.get(path).status_code == 401


def test_an_unsupported_method_needs_a_valid_key(away: TestClient, keys: Any) -> None:
    headers = keys.presented("valid", "read")
    assert away.put("/runs", headers=headers).status_code == 405
    assert away.put("/runs").status_code == 401


def test_a_route_without_a_declaration_needs_the_scope_admin(app: FastAPI, away: TestClient, keys: Any) -> None:
    app.get("/undeclared")(lambda: None)
    assert away.get("/undeclared", headers=keys.presented("valid", "write")).status_code == 403
    assert away.get("/undeclared", headers=keys.presented("valid", "admin")).status_code == 200


def test_the_scope_is_checked_before_the_body_is_read(away: TestClient, keys: Any) -> None:
    headers = {**keys.presented("valid", "read"), "Content-Type": "application/json"}
    assert away.post("/runs", content=b"{", headers=headers).status_code == 403
    assert away.post("/runs", content=b"{", headers={**headers, "Content-Length": "9" * 12}).status_code == 403


def test_scopes_are_documented() -> None:
    assert document()["components"]["securitySchemes"]["key"]["scheme"] == "bearer"
    for operation in OPERATIONS:
        about, scope = operation.documented, operation.scope
        assert about["security"] == ([{"key": []}] if scope else [])
        assert scope is None or f"Needs the scope `{scope}`." in about["description"]
        assert "403" in about["responses"] and (scope is None or {"401", "429"} <= about["responses"].keys())
