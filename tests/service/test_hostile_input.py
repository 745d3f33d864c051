"""Hostile values: the service rejects them with the field or accepts them as data, and never returns a 5xx."""

import base64
import json
import logging
import socket
import uuid
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote

import pytest
from fastapi.testclient import TestClient

from service.api.benchmarks.service import store
from service.app import create_app
from service.contracts.status import JobStatus
from service.db.session import Database
from tests.service.document import document
from tests.service.unigenbench import benchmark

pytestmark = pytest.mark.long
_LIMIT = 30_000
"""Maximum size of an error response in bytes, because it must not contain the whole request."""

VALUES = {
    "NUL": "%00",
    "no UTF-8": "%ff%fe",
    "a lone surrogate": "%ed%a0%80",
    "2^31": str(2**31),
    "2^63": str(2**63),
    "-2^63": str(-(2**63)),
    "thousands of digits": "9" * 5000,
    "NaN": "nan",
    "infinity": "-inf",
    "beyond floats": "1e999",
    "digits of another script": quote("٣"),
    "many characters": "a" * 5000,
    "line ends": "a%0d%0ab",
    "a path": "..%2f..%2f..%2fetc%2fpasswd",
    "an early year": "0001-01-01T00:00:00%2B14:00",
    "a late year": "9999-12-31T23:59:59-14:00",
    "a pattern": "%25_*?[a-z]%5c",
    "SQL": quote("' OR 1=1; --"),
    "nothing": "",
}
BODIES = {
    "NaN": "NaN",
    "infinity": "-Infinity",
    "beyond floats": "1e999",
    "2^31": str(2**31),
    "2^63": str(2**63),
    "400 digits": "9" * 400,
    "thousands of digits": "9" * 5000,
    "small beyond floats": "1e-999",
    "a lone surrogate": r'"\ud800"',
    "NUL": r'"\u0000"',
    "a surrogate's name": r'{"\ud800": 1}',
    "NUL's name": r'{"\u0000": 1}',
    "many characters": json.dumps("a" * 40_000),
    "many items": json.dumps([1] * 15_000),
    "many names": json.dumps({str(index): "a" for index in range(5_000)}),
    "depth": "[" * 500 + "]" * 500,
    "more depth": "[" * 20_000 + "]" * 20_000,
    "depth of mappings": '{"a":' * 900 + "1" + "}" * 900,
    "null": "null",
    "true": "true",
    "a list": "[[]]",
    "a mapping": '{"__proto__": {"a": 1}}',
    "text": '"3"',
}
"""If there are many values, they exceed the maximum size of an error response."""


def operations(method: str) -> list[str]:
    return [path for path, methods in document()["paths"].items() if method in methods]


def parameters(path: str, method: str, place: str) -> list[str]:
    return [one["name"] for one in document()["paths"][path][method].get("parameters", []) if one["in"] == place]


def refused_or_answered(response: Any) -> set[str]:
    """Check that the status is below 500 and an error is a problem document. Return the fields named by its errors."""
    assert response.status_code < 500, response.text[:2000]
    if response.status_code >= 400:
        assert response.headers["content-type"] == "application/problem+json"
        assert len(response.content) < _LIMIT, response.text[:2000]
    errors = response.json().get("errors") if response.status_code == 422 else None
    return {error["loc"][1] for error in errors or [] if len(error["loc"]) > 1}


@pytest.fixture(autouse=True)
def _quiet(caplog: pytest.LogCaptureFixture) -> None:
    """Disable the audit log, whose thousands of lines no test reads."""
    caplog.set_level(logging.CRITICAL, "service.audit")


@pytest.fixture(scope="module")
def client(module_client: TestClient) -> TestClient:
    """A client of the service that all requests go to."""
    return module_client


@pytest.fixture(scope="module")
def ids(module_records: Any) -> dict[str, str]:
    """A row of each kind, so that requests are not answered with 404. Tests do not change the rows."""
    return rows(module_records)


@pytest.fixture
def own_ids(module_records: Any) -> dict[str, str]:
    """Rows of each kind for a single test that may change them."""
    return rows(module_records)


def rows(records: Any) -> dict[str, str]:
    """The path parameters of new rows, one for each resource."""
    run = records.run(JobStatus.SUCCEEDED)
    records.metric(run, "reward/clip_score", [0.1, None, 0.3])
    records.reward_group(run, [0.1, None, 0.3])
    checkpoint = records.checkpoint(run, {"w": b"weights"})
    with records.database.transaction() as session:
        store(session, benchmark().model_copy(update={"name": "w"}))
    generation = records.generation(
        {"model": "shapes-flux", "checkpoints": ["base"], "prompts": ["a"], "num_images": 1}, JobStatus.FAILED
    )
    evaluation = records.evaluation(benchmark(), answers={(0, 0): [1] * len(benchmark().prompts[0].points)})
    found = {"run_id": run.id, "checkpoint_id": checkpoint.id, "generation_id": generation.id}
    found |= {"evaluation_id": evaluation.id, "second_id": evaluation.id, "sample_id": uuid.uuid4()}
    return {name: str(id) for name, id in found.items()} | {
        "name": "w",
        "number": "0",
        "index": "0",
        "image_index": "0",
    }


def address(path: str, ids: dict[str, str]) -> str:
    return path.format_map({name: str(uuid.uuid4()) for name in ("key_id", "score_id")} | ids)


class TestParameters:
    @pytest.mark.parametrize("path", operations("get"))
    def test_query_parameters(self, client: TestClient, ids: dict[str, str], path: str) -> None:
        """Each value as all parameters at once, then alone as those that the errors do not name."""
        names = [*parameters(path, "get", "query"), "unknown"]
        for value in VALUES.values():
            together = client.get(f"{address(path, ids)}?" + "&".join(f"{name}={value}" for name in names))
            refused = refused_or_answered(together)
            for name in names:
                if name not in refused:
                    refused_or_answered(client.get(f"{address(path, ids)}?{name}={value}"))
        for name in names:
            refused_or_answered(client.get(f"{address(path, ids)}?{name}=1&{name}=2"))

    @pytest.mark.parametrize(
        ("path", "method"),
        [(path, method) for method in ("get", "post", "delete", "patch") for path in operations(method) if "{" in path],
    )
    def test_path_parameters(self, client: TestClient, ids: dict[str, str], path: str, method: str) -> None:
        for name in parameters(path, method, "path"):
            for value in VALUES.values():
                refused_or_answered(client.request(method, address(path, {**ids, name: value})))

    @pytest.mark.parametrize(
        "path", [path for path in operations("get") if "cursor" in parameters(path, "get", "query")]
    )
    def test_cursors(self, client: TestClient, ids: dict[str, str], path: str) -> None:
        some = str(uuid.uuid4())
        parts: tuple[Any, ...] = (
            2**31,
            2**63,
            -(2**70),
            10**300,
            1e308,
            "a\x00",
            "\ud800",
            "\ud83d\ude00",
            None,
            True,
            some,
        )
        keys = [[part] * count for part in parts for count in range(6)]
        keys += [[part, some] for part in parts] + [[2**40, 0, 0, 1, "r"], [0, 0, 0, 1, "r\x00"], [2**40, "best", 0]]
        for key in keys:
            cursor = base64.urlsafe_b64encode(json.dumps(key).encode()).decode().rstrip("=")
            response = client.get(address(path, ids), params={"cursor": cursor})
            refused_or_answered(response)
            assert response.status_code in (200, 404, 422)  # no benchmark was imported


def fields(path: str, method: str) -> list[str]:
    """The fields of the JSON object that an operation accepts; empty if it accepts none."""
    content = document()["paths"][path][method].get("requestBody", {}).get("content", {})
    schema = content.get("application/json", {}).get("schema", {})
    if path.endswith("/clone"):  # any part of a run's spec, which the schema does not restrict
        schema = {"$ref": "#/components/schemas/RunSpec"}
    for one in [schema, *schema.get("anyOf", [])]:
        name = one.get("$ref", "").rpartition("/")[2]
        if found := (document()["components"]["schemas"][name] if name else one).get("properties"):
            return list(found)
    return []


NESTED = {
    "prompts": ['{"prompts": [%s]}', '{"prompts": {"items": [%s]}}'],
    "labels": ['{"labels": {"a": %s}}'],
    "training": ['{"training": {"seed": %s, "max_steps": %s, "learning_rate": %s}}'],
    "num_images": ['{"prompts": ["a"], "seed": %s, "guidance": %s, "num_images": %s, "width": %s}'],
    "images": ['{"rewards": [%s], "images": [{"prompt": %s, "data": %s}]}'],
    "scopes": ['{"name": "a", "scopes": [%s], "max_open_jobs": %s}'],
}
"""Bodies with nested or several hostile values, by field."""


def bodies(path: str, method: str, value: str) -> list[str]:
    """Bodies with a value as the whole body, under an unknown name, inside fields, and (the last) as all fields."""
    own = fields(path, method)
    templates = [template for field in own for template in NESTED.get(field, [])]
    return [
        value,
        f'{{"unknown": {value}}}',
        *(template.replace("%s", value) for template in templates),
        "{" + ", ".join(f'"{field}": {value}' for field in own) + "}",
    ]


class TestBodies:
    @pytest.mark.parametrize(
        ("path", "method"), [(path, method) for method in ("post", "patch") for path in operations(method)]
    )
    def test_hostile_values_in_every_field(
        self, client: TestClient, own_ids: dict[str, str], path: str, method: str
    ) -> None:
        """Each value as all fields at once, then alone as those that the errors do not name."""

        def refused_by(body: str) -> set[str]:
            headers = {"Content-Type": "application/json"}
            return refused_or_answered(client.request(method, address(path, own_ids), content=body, headers=headers))

        for value in BODIES.values():
            *_, refused = [refused_by(body) for body in bodies(path, method, value)]
            for field in fields(path, method):
                if field not in refused:
                    refused_by(f'{{"{field}": {value}}}')

    def test_a_time_of_400_digits(self, client: TestClient) -> None:
        body = f'{{"name": "a", "scopes": ["read"], "expires_at": {BODIES["400 digits"]}}}'
        answer = client.post("/keys", content=body.encode(), headers={"Content-Type": "application/json"})
        assert answer.status_code == 422

    @pytest.mark.parametrize("path", ["/runs", "/plans", "/generate"])
    def test_invalid_json(self, client: TestClient, path: str) -> None:
        for body in (b"", b"\xff", b'"\xed\xa0\x80"', b"{", b'{"a":1,"a":2}', b"{}{}"):
            response = client.post(path, content=body, headers={"Content-Type": "application/json"})
            refused_or_answered(response)
            assert response.status_code == 422, body


HEADERS = {
    "accept": [",".join(["a/b;q=0.1"] * 5000), "*/*;q=nan", "*/*;q=inf", "text/html;q=\xff", ";;;,,,", "*/*;" * 5000],
    "range": [
        "bytes=" + "9" * 5000 + "-",
        "bytes=0-" + "9" * 5000,
        "bytes=-" + "9" * 18,
        "bytes=" + "0-0," * 5000,
        "\xb2",
    ],
    "if-none-match": ["*", '"' * 5000, "\xff"],
    "if-range": ['"', "Wed, 21 Oct 2099 07:28:00 GMT", "\xff"],
    "prefer": ["wait=" + "9" * 5000, "wait=" + " " * 20_000, "wait " * 5000, "wait=\xb2", "wait=-0", ", " * 20_000],
    "last-event-id": ["9" * 5000, "-1", "\xb2", "1e5", "0x1"],
    "idempotency-key": ["", "a" * 5000, "\xff", "a b", "\x7f"],
    "x-request-id": ["a" * 5000, "../..", "\xff", "a\tb"],
    "content-type": ["application/json; charset=utf-7", "application/json" * 1000, "\xff", "multipart/form-data"],
    "content-length": ["9" * 5000, "-1", "\xb2", "1, 1"],
    "content-encoding": ["gzip", "br"],
    "transfer-encoding": ["gzip"],
    "authorization": ["Bearer " + "a" * 5000, "Basic \xff", "Bearer", "Bearer g2k_\xff", "g2k_" * 1000],
    "host": ["127.0.0.1:99999999", "[::1", "127.0.0.1@evil", "\xff", "[" * 1000],
    "origin": ["null", "\xff"],
    "x-forwarded-for": ["10.0.0.1, " * 500],
    "cookie": ["a=b; " * 5000],
}

CONDITIONS = ("range", "if-range", "if-none-match")
"""Headers that file routes read, some of which are not documented."""


class TestHeaders:
    @pytest.mark.parametrize("name", HEADERS)
    def test_each_header_alone_and_twice(self, client: TestClient, ids: dict[str, str], name: str) -> None:
        for place, path in enumerate(operations("get")):
            # Other headers are handled independently of the route, so each value is sent once, to a third of the
            # routes.
            documented = [one.lower() for one in parameters(path, "get", "header")]
            read = path == "/runs" or name in (*documented, *CONDITIONS)
            for number, value in enumerate(HEADERS[name]):
                if not read and name not in ("accept", "prefer") and (place + number) % 3:
                    continue
                sent = (name.encode(), value.encode("latin-1"))
                refused_or_answered(client.get(address(path, ids), headers=[sent]))
                if read:
                    refused_or_answered(client.get(address(path, ids), headers=[sent, sent]))
        for value in HEADERS[name]:
            headers = {"content-type": b"application/json", name: value.encode("latin-1")}
            refused_or_answered(client.post("/generate", content=b'{"prompts": ["a"]}', headers=headers))

    @pytest.mark.parametrize(("many", "size"), [(1, 200_000), (5000, 20)])
    def test_too_many_headers_are_rejected(self, client: TestClient, many: int, size: int) -> None:
        headers = [(f"x-{index}", "a" * size) for index in range(many)]
        response = client.get("/healthz", headers=headers)
        assert (response.status_code, response.json()["code"]) == (431, "headers_too_large")


REQUESTS = {
    "no HTTP": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" * 20 + b"\r\n\r\n",
    "two lengths": b"POST /runs HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab",
    "length and chunks": b"POST /runs HTTP/1.1\r\nHost: localhost\r\n"
    b"Content-Length: 9\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "a bad chunk": b"POST /runs HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n-1\r\n\r\n",
    "NUL in a header": b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nX: a\x00b\r\n\r\n",
    "no host": b"GET /healthz HTTP/1.1\r\n\r\n",
    "an absolute address": b"GET http://evil.example/healthz HTTP/1.1\r\nHost: evil.example\r\n\r\n",
    "another method": b"BREW /runs HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "a long path": b"GET /" + b"a" * 60_000 + b" HTTP/1.1\r\nHost: localhost\r\n\r\n",
}


@pytest.fixture(scope="module")
def port(module_database: Database, serve: Any) -> Iterator[int]:
    """The address of the service on a socket."""
    with serve(create_app(module_database.settings)) as url:
        yield int(url.rpartition(":")[2])


@pytest.mark.parametrize("name", REQUESTS)
def test_invalid_requests(port: int, name: str) -> None:
    with socket.create_connection(("127.0.0.1", port), timeout=30) as connection:
        connection.sendall(REQUESTS[name])
        connection.shutdown(socket.SHUT_WR)
        answer = connection.recv(65536)
    assert answer == b"" or answer.startswith(b"HTTP/1.1 4"), answer[:200]
    with socket.create_connection(("127.0.0.1", port), timeout=30) as connection:
        connection.sendall(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        assert connection.recv(65536).startswith(b"HTTP/1.1 200")
