"""The application: imports, request ids, errors, limits, the OpenAPI document."""

import gc
import json
import re
import subprocess
import sys
from typing import Any

import jsonschema_rs
from fastapi import FastAPI
from fastapi.testclient import TestClient

from service.app import create_app
from service.core.settings import Settings
from service.db.session import Database
from tests.service.document import document

HEAVY = ("torch", "diffusers", "transformers", "matplotlib", "PIL", "numpy", "alembic", "worker")


def problem(response: Any, status: int, code: str) -> dict[str, Any]:
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/problem+json"
    body: dict[str, Any] = response.json()
    assert {"type", "title", "status", "detail", "code", "request_id"} <= body.keys()
    assert (body["status"], body["code"]) == (status, code)
    assert body["request_id"] == response.headers["X-Request-ID"]
    return body


def test_importing_the_api_imports_neither_torch_nor_the_worker() -> None:
    code = f"import sys, service.app; print([name for name in {HEAVY} if name in sys.modules])"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


def test_full_garbage_collections_skip_the_application(app: FastAPI) -> None:
    with TestClient(app):
        assert gc.get_freeze_count() > 10 * len(gc.get_objects())
    assert gc.get_freeze_count() == 0


def test_every_response_has_a_request_id(client: TestClient) -> None:
    first, second = client.get("/healthz"), client.get("/healthz")
    assert first.headers["X-Request-ID"] != second.headers["X-Request-ID"]
    assert client.get("/healthz", headers={"X-Request-ID": "mine-1"}).headers["X-Request-ID"] == "mine-1"
    assert client.get("/healthz", headers={"X-Request-ID": "no spaces"}).headers["X-Request-ID"] != "no spaces"


def test_an_unknown_route_is_a_problem(client: TestClient) -> None:
    assert "/nowhere" in problem(client.get("/nowhere"), 404, "unknown_route")["detail"]


def test_an_unsupported_method_lists_the_allowed_ones(client: TestClient) -> None:
    response = client.delete("/runs")
    problem(response, 405, "method_not_allowed")
    assert response.headers["Allow"] == "GET, HEAD, POST"


def test_an_unexpected_error_does_not_show_its_cause(app: FastAPI) -> None:
    @app.get("/fails")
    def fails() -> None:
        raise RuntimeError("a password in a message")

    with TestClient(
        app, base_url="http://127.0.0.1", client=("127.0.0.1", 50000), raise_server_exceptions=False
    ) as client:
        response = client.get("/fails")
    problem(response, 500, "internal_error")
    assert "password" not in response.text


def test_another_machine_is_refused(app: FastAPI) -> None:
    with TestClient(app, base_url="http://127.0.0.1", client=("192.168.1.5", 50000)) as client:
        problem(client.get("/healthz"), 403, "not_local")


def test_loopback_hosts_are_accepted(client: TestClient) -> None:
    for host in ("127.0.0.1", "127.0.0.1:8000", "localhost:1", "LOCALHOST", "[::1]:8000", "[::1]"):
        assert client.get("/healthz", headers={"Host": host}).status_code == 200, host


def test_other_host_names_are_rejected(client: TestClient) -> None:
    for host in ("evil.example", "127.0.0.1.evil.example", "localhost.evil.example:80", "10.0.0.1", ""):
        problem(client.get("/healthz", headers={"Host": host}), 400, "host_not_allowed")


def test_a_body_over_the_limit_is_rejected_with_or_without_its_length(database: Database) -> None:
    small = create_app(database.settings.model_copy(update={"max_body_bytes": 1000}))
    with TestClient(small, base_url="http://127.0.0.1", client=("127.0.0.1", 50000)) as client:
        problem(
            client.post("/plans", content=b"x" * 1001, headers={"Content-Type": "application/json"}),
            413,
            "body_too_large",
        )
        unannounced = client.post(
            "/plans", content=(b" " * 600 for _ in range(2)), headers={"Content-Type": "application/json"}
        )
        problem(unannounced, 413, "body_too_large")
        assert client.post("/plans", json={}).status_code == 200


def test_an_unavailable_database_is_a_503(settings: Settings) -> None:
    lost = settings.model_copy(update={"database_url": "postgresql+psycopg://u@127.0.0.1:1/d"})
    with TestClient(
        create_app(lost), base_url="http://127.0.0.1", client=("127.0.0.1", 50000), raise_server_exceptions=False
    ) as client:
        response = client.get("/runs")
        problem(response, 503, "database_unavailable")
        assert response.headers["Retry-After"]
        assert client.get("/healthz").status_code == 200


def test_the_documentation_page_needs_no_other_host(client: TestClient) -> None:
    page = client.get("/docs").text
    assert not re.search(r"""["'(](https?:)?//""", page), page
    assert '"validatorUrl": null' in page
    files = re.findall(r"""(?:src|href)="([^"]*)\"""", page)
    assert len(files) == 3
    for file in files:
        assert client.get(file).status_code == 200, file
    assert not re.search(r"url\(\s*[\"']?(https?:)?//", client.get(next(one for one in files if "css" in one)).text)


class TestOpenApi:
    def test_it_is_served_unchanged(self, client: TestClient) -> None:
        assert client.get("/openapi.json").json() == json.loads(json.dumps(document()))

    def test_every_route_is_documented(self) -> None:
        operations = [
            (path, method, operation)
            for path, methods in document()["paths"].items()
            for method, operation in methods.items()
        ]
        ids = [operation["operationId"] for _, _, operation in operations]
        assert len(set(ids)) == len(ids)
        for path, method, operation in operations:
            assert operation["summary"] and operation["description"], (method, path)
            for status, answer in operation["responses"].items():
                if int(status) >= 400:
                    assert list(answer["content"]) == ["application/problem+json"], (method, path, status)
            for media_type, body in operation.get("requestBody", {"content": {}})["content"].items():
                assert body.get("examples") or media_type == "application/octet-stream", path
        assert document()["components"]["schemas"]["Problem"]["required"]

    def test_every_field_of_a_request_has_a_description(self) -> None:
        schemas = document()["components"]["schemas"]
        numbers = [
            (name, field, about)
            for name in ("Sampling", "Training", "Heldout", "G2RPO", "Advantage", "GenerationSpec")
            for field, about in schemas[name]["properties"].items()
        ]
        for name, field, about in numbers:
            assert "description" in about or "$ref" in about or "const" in about or "allOf" in about, (name, field)

    def test_examples_are_accepted(self, client: TestClient) -> None:
        paths = document()["paths"]
        for path in ("/runs", "/plans", "/generate"):
            examples = paths[path]["post"]["requestBody"]["content"]["application/json"]["examples"]
            for example in examples.values():
                assert client.post(path, json=example["value"]).status_code in (200, 202), path

    def test_no_two_schemas_have_the_same_name(self) -> None:
        assert [name for name in document()["components"]["schemas"] if "__" in name] == []

    def test_examples_of_schemas_are_valid(self) -> None:
        checked = 0
        schemas = document()["components"]["schemas"]
        for schema in schemas.values():
            for described in (schema, *schema.get("properties", {}).values()):
                whole = {**described, "components": {"schemas": schemas}}
                for example in described.get("examples", ()):
                    jsonschema_rs.validate(whole, example)
                    checked += 1
        assert checked > 30
        assert schemas["Problem"]["examples"] and schemas["Curves"]["examples"]
