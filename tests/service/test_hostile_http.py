"""Raw bytes that no client library sends: the service rejects them or closes the connection, and serves others."""

import contextlib
import json
import logging
import socket
import uuid
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from service.app import create_app
from service.contracts.status import JobStatus
from service.db.session import Database
from tests.service.document import document

_PATIENCE = 30.0
_MOST = 2**20
"""Maximum body size of the served application in bytes."""

TRAVERSALS = (
    "../../../../etc/passwd",
    "..%2f..%2f..%2f..%2fetc%2fpasswd",
    "%2e%2e%2f%2e%2e%2fetc%2fpasswd",
    "%252e%252e%252fetc%252fpasswd",
    "..%5c..%5c..%5cetc%5cpasswd",
    "..\\..\\etc\\passwd",
    "%c0%ae%c0%ae%c0%afetc%c0%afpasswd",
    "%00",
    "w%00.png",
    "%2fetc%2fpasswd",
    "//etc/passwd",
    "file:///etc/passwd",
    "%ff%fe",
    "%",
    "%zz",
    "~root",
    "a" * 30_000,
)


class Served:
    """The service on a socket."""

    def __init__(self, port: int) -> None:
        self.port = port

    @contextlib.contextmanager
    def connected(self) -> Iterator[socket.socket]:
        with socket.create_connection(("127.0.0.1", self.port), timeout=_PATIENCE) as connection:
            yield connection

    def answer(self, *parts: bytes, hang_up: bool = False) -> bytes:
        """Read until the server closes the connection. `hang_up` closes the client's half after sending."""
        received = b""
        with self.connected() as connection:
            with contextlib.suppress(OSError):  # the server may close the connection before it has read everything
                for part in parts:
                    connection.sendall(part)
                if hang_up:
                    connection.shutdown(socket.SHUT_WR)
            with contextlib.suppress(ConnectionResetError):
                while part := connection.recv(65536):
                    received += part
        return received

    def status(self, *parts: bytes, hang_up: bool = False) -> int:
        """The status of the response, below 500; 0 if the connection was closed without a response."""
        answer = self.answer(*parts, hang_up=hang_up)
        if not answer:
            return 0
        status = int(answer.split(b" ", 2)[1])
        assert 200 <= status < 500, answer[:1000]
        assert b"root:" not in answer
        return status

    def is_well(self) -> bool:
        return self.status(request("GET", "/healthz")) == 200 and self.status(request("GET", "/runs")) == 200


def request(method: str, target: str, *headers: str, body: bytes = b"", version: str = "HTTP/1.1") -> bytes:
    """A request with `Connection: close`."""
    lines = [f"{method} {target} {version}", "Host: 127.0.0.1", "Connection: close", *headers]
    if body:
        lines += ["Content-Type: application/json", f"Content-Length: {len(body)}"]
    return "\r\n".join([*lines, "", ""]).encode("latin-1") + body


@pytest.fixture(scope="module")
def running(module_database: Database, serve: Callable[..., Any]) -> Iterator[Served]:
    """A service shared by all tests of the module."""
    app = create_app(module_database.settings.model_copy(update={"max_body_bytes": _MOST}))
    with serve(app) as url:
        yield Served(int(url.rpartition(":")[2]))


@pytest.fixture
def served(running: Served, caplog: pytest.LogCaptureFixture) -> Iterator[Served]:
    """The service. After the test, checks that it has raised no exception and still responds."""
    yield running
    assert running.is_well()
    raised = [record for record in caplog.records if record.levelno >= logging.ERROR]
    assert not raised, [record.getMessage() for record in raised]


@pytest.fixture(scope="module")
def ids(module_records: Any) -> dict[str, str]:
    """Values of path parameters for rows that no test of this module changes."""
    run = module_records.run(JobStatus.SUCCEEDED)
    checkpoint = module_records.checkpoint(run, {"w": b"weights"})
    some = str(uuid.uuid4())
    known = {"run_id": str(run.id), "checkpoint_id": str(checkpoint.id), "name": "w", "number": "0"}
    return {**dict.fromkeys(("generation_id", "sample_id", "key_id"), some), **known}


def test_no_path_leaves_the_service(served: Served, ids: dict[str, str]) -> None:
    for path, methods in document()["paths"].items():
        for method in methods:
            for parameter in [name for name in ids if f"{{{name}}}" in path]:
                for traversal in TRAVERSALS:
                    target = path.format_map({**ids, parameter: traversal})
                    status = served.status(request(method.upper(), target))
                    assert status in (0, 400, 404, 405, 415, 422), (target, status)


HEADERS = {
    "one of 64 KiB": ["X-Long: " + "a" * 65_536],
    "one of a megabyte": ["X-Long: " + "a" * 2**20],
    "a thousand": [f"X-{number}: a" for number in range(1000)],
    "two authorizations": ["Authorization: Bearer a", "Authorization: Bearer b"],
    "two names for one request": ["Idempotency-Key: a", "Idempotency-Key: b"],
    "two last events": ["Last-Event-ID: 1", "Last-Event-ID: 2"],
    "two hosts": ["Host: evil.example"],
    "two lengths": ["Content-Length: 1", "Content-Length: 2"],
    "a length and chunks": ["Content-Length: 5", "Transfer-Encoding: chunked"],
    "a negative length": ["Content-Length: -1"],
    "an enormous length": ["Content-Length: " + "9" * 400],
    "a length that is none": ["Content-Length: 0x10"],
    "no name": [": a"],
    "a line end": ["X-A: a\rX-B: b"],
    "a continued line": ["X-A: a", " b"],
    "a space before the colon": ["Host : 127.0.0.1"],
    "bytes that are no ASCII": ["X-A: \xff\xfe\x80"],
    "control characters": ["X-A: \x01\x02\x7f"],
    "an unknown encoding": ["Transfer-Encoding: gzip, chunked"],
    "a change to HTTP/2": ["Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", "HTTP2-Settings: AAMAAABkAARAAAAA"],
    "a change to a websocket": [
        *("Connection: Upgrade", "Upgrade: websocket"),
        *("Sec-WebSocket-Version: 13", "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ=="),
    ],
}


@pytest.mark.parametrize("kind", HEADERS)
def test_headers(served: Served, ids: dict[str, str], kind: str) -> None:
    for target in ("/runs", f"/runs/{ids['run_id']}/events", "/keys", "/nowhere"):
        served.status(request("GET", target, *HEADERS[kind]), hang_up=True)
        served.status(request("POST", target, *HEADERS[kind]), b"{}", hang_up=True)


LINES = {
    "TRACE": request("TRACE", "/runs"),
    "CONNECT": request("CONNECT", "127.0.0.1:22"),
    "OPTIONS of all": request("OPTIONS", "*"),
    "no such method": request("BREW", "/runs"),
    "a method in lower case": request("get", "/runs"),
    "a method of thousands of letters": request("A" * 5000, "/runs"),
    "HTTP/1.0": request("GET", "/runs", version="HTTP/1.0"),
    "HTTP/0.9": b"GET /runs\r\n\r\n",
    "HTTP/9.9": request("GET", "/runs", version="HTTP/9.9"),
    "the beginning of HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "TLS": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\x00" * 500,
    "an absolute address": request("GET", "http://127.0.0.1/runs"),
    "another's absolute address": request("GET", "http://evil.example/runs"),
    "no slash": request("GET", "runs"),
    "a fragment": request("GET", "/runs#top"),
    "a space": request("GET", "/runs /x"),
    "an enormous address": request("GET", "/runs?" + "a=b&" * 30_000),
    "a thousand parameters": request("GET", "/runs?" + "&".join(f"label=a:{number}" for number in range(1000))),
    "one line without an end": b"GET /" + b"a" * 300_000,
    "empty lines": b"\r\n" * 1000 + request("GET", "/runs"),
    "bare line feeds": b"GET /runs HTTP/1.1\nHost: 127.0.0.1\nConnection: close\n\n",
    "nothing": b"",
    "zeros": b"\x00" * 10_000,
}


def test_http_1_0_has_no_chunks(served: Served, ids: dict[str, str]) -> None:
    """The end of a response without a length is the end of the connection."""
    for target in (f"/runs/{ids['run_id']}/events", "/runs", "/docs", "/openapi.json"):
        line = f"GET {target} HTTP/1.0\r\nHost: 127.0.0.1\r\nConnection: keep-alive\r\n\r\n"
        head, _, body = served.answer(line.encode()).partition(b"\r\n\r\n")
        headers = head.lower()
        assert headers.startswith(b"http/1.1 200") and b"transfer-encoding" not in headers, target
        assert b"connection: close" in headers and b"keep-alive" not in headers.replace(b"keep-alive:", b""), target
        assert body.startswith((b"{", b"<", b"retry:", b"\n", b": ")) or b"event:" in body[:200], body[:200]


def test_headers_over_the_limit_are_explained(served: Served) -> None:
    answer = served.answer(request("GET", "/runs", *[f"X-{number}: {'a' * 1000}" for number in range(70)]))
    assert b"headers_too_large" in answer


@pytest.mark.parametrize("kind", LINES)
def test_request_lines(served: Served, kind: str) -> None:
    served.status(LINES[kind], hang_up=True)


def _chunked(*chunks: bytes) -> list[bytes]:
    return [request("POST", "/plans", "Content-Type: application/json", "Transfer-Encoding: chunked"), *chunks]


BODIES = {
    "shorter than it says": [request("POST", "/plans", "Content-Type: application/json", "Content-Length: 100"), b"{}"],
    "longer than it says": [request("POST", "/plans", "Content-Type: application/json", "Content-Length: 2"), b"{}{}"],
    "announced and never sent": [request("POST", "/plans", "Expect: 100-continue", "Content-Length: 100")],
    "too large by its length": [request("POST", "/plans", f"Content-Length: {_MOST + 1}"), b" " * (_MOST + 1)],
    "too large by its chunks": _chunked(*[b"10000\r\n" + b" " * 65_536 + b"\r\n"] * 17, b"0\r\n\r\n"),
    "a chunk of endless length": _chunked(b"f" * 40 + b"\r\n"),
    "a chunk of no length": _chunked(b"zz\r\n{}\r\n0\r\n\r\n"),
    "a chunk cut off": _chunked(b"100\r\n{}"),
    "a thousand chunks": _chunked(*[b"1\r\n \r\n"] * 1000, b"2\r\n{}\r\n0\r\n\r\n"),
    "chunks with a trailer": _chunked(b"2\r\n{}\r\n0\r\nX-Trailer: a\r\n\r\n"),
    "compressed": [request("POST", "/plans", "Content-Encoding: gzip", body=b"\x1f\x8b" + b"\x00" * 100)],
    "of a GET": [request("GET", "/runs", body=b"{}")],
}


@pytest.mark.parametrize("kind", BODIES)
def test_bodies_that_contradict_their_headers(served: Served, kind: str) -> None:
    served.status(*BODIES[kind], hang_up=True)


def test_bodies_over_the_limit_are_413(served: Served) -> None:
    headers = ["Content-Type: application/json"]
    response = request("POST", "/plans", *headers, f"Content-Length: {_MOST + 1}")
    assert served.status(response) == 413
    assert served.status(*BODIES["too large by its chunks"]) in (
        0,
        413,
    )  # the response may be lost during sending


JSON = {
    "nested 100,000 deep": b"[" * 100_000,
    "mappings nested 100,000 deep": b'{"a":' * 100_000,
    "a number of 100,000 digits": b'{"seed": ' + b"9" * 100_000 + b"}",
    "a fraction of 100,000 digits": b'{"priority": 0.' + b"1" * 100_000 + b"}",
    "a name of 500,000 letters": json.dumps({"a" * 500_000: 1}).encode(),
    "100,000 names": json.dumps({str(number): 0 for number in range(50_000)}).encode(),
    "a repeated name": b'{"name": "a", "name": 1}',
    "NaN": b'{"training": {"learning_rate": NaN}}',
    "Infinity": b'{"training": {"learning_rate": -Infinity}}',
    "1e400": b'{"training": {"learning_rate": 1e400}}',
    "half a surrogate pair": rb'{"name": "\ud800"}',
    "half a surrogate pair as a name": rb'{"labels": {"\udfff": "a"}}',
    "overlong UTF-8": b'{"name": "\xc0\xaf"}',
    "a deep clone": b'{"training":' * 500 + b"1" + b"}" * 500,
}


@pytest.mark.parametrize("kind", JSON)
def test_json(served: Served, ids: dict[str, str], kind: str) -> None:
    for target in ("/runs", "/plans", "/generate", "/keys", f"/runs/{ids['run_id']}/clone"):
        assert served.status(request("POST", target, body=JSON[kind])) in (413, 422)


@pytest.mark.parametrize(
    "name",
    [
        "مرحبا hello",
        "👩🏽‍🚀" * 40,
        "\u0301" * 200,
        "\ufeff\u200b\u00a0",
        "𝔘𝔫𝔦𝔠𝔬𝔡𝔢",
        "'; DROP TABLE runs; --",
    ],
)
def test_every_script_is_stored_unchanged(served: Served, name: str) -> None:
    name = name[:100]
    body = json.dumps({"name": name, "labels": {name: name}, "training": {"seed": -0.0}}).encode()
    shown = json.loads(served.answer(request("POST", "/runs", body=body)).partition(b"\r\n\r\n")[2])
    assert (shown["name"], shown["labels"]) == (name, {name: name})
    assert shown["spec"]["training"]["seed"] == 0


def test_silent_connections_do_not_block_others(served: Served) -> None:
    beginnings = (b"", b"GET /runs HTTP/1.1\r\nHost: 127.0.0.1\r\n", BODIES["shorter than it says"][0] + b'{"a"')
    with contextlib.ExitStack() as open_connections:
        for number in range(150):
            connection = open_connections.enter_context(served.connected())
            connection.sendall(beginnings[number % len(beginnings)])
        assert served.is_well()
