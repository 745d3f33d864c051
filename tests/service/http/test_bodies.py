"""Request bodies: encodings, numbers, and clients that hang up."""

import gzip
import json
import re
import socket
from collections.abc import Iterator
from typing import Any

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient

from service.contracts.status import JobStatus
from tests.service.document import document

PATHS = document()["paths"]
POSTS = [(path, method) for path, methods in PATHS.items() for method in ("post", "patch") if method in methods]
HUGE = {"400 digits": "9" * 400, "-400 digits": "-" + "9" * 400, "5000 digits": "9" * 5000, "2^70": str(2**70)}


class TestEncodings:
    @pytest.mark.parametrize(("path", "method"), POSTS)
    def test_a_compressed_body_is_refused(self, client: TestClient, path: str, method: str) -> None:
        path = re.sub(r"{\w+}", "00000000-0000-0000-0000-000000000000", path)
        headers = {"Content-Type": "application/json", "Content-Encoding": "gzip"}
        response = client.request(method, path, content=gzip.compress(b"{}"), headers=headers)
        assert (response.status_code, response.json()["code"]) == (415, "content_encoding_unsupported")
        assert response.headers["Accept-Encoding"] == "identity"

    def test_identity_is_allowed(self, client: TestClient) -> None:
        assert client.post("/plans", json={}, headers={"Content-Encoding": "identity"}).status_code == 200


def numbers(schema: dict[str, Any], *loc: str | int) -> Iterator[tuple[str | int, ...]]:
    """The locations of all numbers in a schema."""
    if "$ref" in schema:
        schema = document()["components"]["schemas"][schema["$ref"].rpartition("/")[2]]
    if schema.get("type") in ("integer", "number"):
        yield loc
    for alternative in [*schema.get("anyOf", ()), *schema.get("oneOf", ()), *schema.get("allOf", ())]:
        yield from numbers(alternative, *loc)
    for name, value in schema.get("properties", {}).items():
        yield from numbers(value, *loc, name)
    if "items" in schema:
        yield from numbers(schema["items"], *loc, 0)


def with_value(loc: tuple[str | int, ...], text: str) -> str:
    """A JSON object with a value at one location."""
    for part in reversed(loc):
        text = f"[{text}]" if part == 0 else f"{{{json.dumps(part)}: {text}}}"
    return text


def fields() -> list[tuple[str, str, tuple[str | int, ...]]]:
    found = []
    for path, method in POSTS:
        content = PATHS[path][method].get("requestBody", {}).get("content", {})
        schema = content.get("application/json", {}).get("schema", {})
        if path.endswith("/clone"):
            schema = {"$ref": "#/components/schemas/RunSpec"}
        found += [(path, method, loc) for loc in dict.fromkeys(numbers(schema))]
    return found


def test_numbers_out_of_range_are_refused_by_field(module_client: TestClient, module_records: Any) -> None:
    """Every number of every body, and the algorithms of all kinds."""
    run = module_records.run(JobStatus.SUCCEEDED)
    tested = set()
    for path, method, loc in fields():
        for name, text in HUGE.items():
            response = module_client.request(
                method,
                path.format(run_id=run.id, evaluation_id=run.id, generation_id=run.id, name="w"),
                content=with_value(loc, text),
                headers={"Content-Type": "application/json"},
            )
            assert response.status_code == 422, (path, loc, name, response.text[:500])
            found = [error["loc"] for error in response.json()["errors"]]
            assert ["body", *loc] in found or loc[:1] == ("algorithm",), (path, loc, name, found)
            tested.add(loc)
    assert ("training", "lora_alpha") in tested and len(tested) > 60


def test_numbers_of_queries_out_of_range_are_refused(module_client: TestClient, module_records: Any) -> None:
    run = module_records.run(JobStatus.SUCCEEDED)
    tested = 0
    for path, methods in PATHS.items():
        for method, operation in methods.items():
            for parameter in operation.get("parameters", []):
                if parameter["in"] != "query" or not list(numbers(parameter["schema"])):
                    continue
                for name, text in HUGE.items():
                    address = re.sub(r"{\w+}", str(run.id), path)
                    response = module_client.request(method, address, params={parameter["name"]: text})
                    assert response.status_code in (415, 422), (path, parameter["name"], name, response.text[:500])
                    tested += 1
    assert tested > 60


class TestHangUp:
    @pytest.mark.parametrize(
        ("target", "media_type"), [("/prompt-sets?name=mine", "text/plain"), ("/runs", "application/json")]
    )
    def test_it_is_logged_as_499_and_is_no_error(
        self, app: FastAPI, serve: Any, caplog: Any, eventually: Any, target: str, media_type: str
    ) -> None:
        head = f"POST {target} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: {media_type}\r\nContent-Length: 1000"
        with serve(app) as url, TestClient(app, base_url="http://127.0.0.1", client=("127.0.0.1", 1)) as client:
            with socket.create_connection(("127.0.0.1", int(url.rpartition(":")[2]))) as connection:
                connection.sendall(head.encode() + b"\r\n\r\na red circle\n")
            eventually(lambda: [record for record in caplog.records if record.name == "service.audit"])
            audit = [record.msg for record in caplog.records if record.name == "service.audit"]
            assert [(line["status"], line["code"]) for line in audit] == [(499, "client_disconnected")]
            assert [record for record in caplog.records if record.levelname == "ERROR"] == []
            metrics = client.get("/metrics").text
        assert re.search(r'g2rpo_http_request_duration_seconds_count\{[^}]*status="499"\} 1\.0', metrics)
        assert not re.search(r'g2rpo_http_request_duration_seconds_count\{[^}]*status="5\d\d"', metrics)
