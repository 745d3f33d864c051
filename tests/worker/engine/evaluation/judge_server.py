"""A judge or reward server on the loopback interface, with the faults that a test requires."""

import ast
import base64
import json
import re
import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass(frozen=True)
class JudgeRequest:
    """A parsed request to the server."""

    number: int
    """The request's position among all requests to the server, from 0."""
    repeats: int
    """Number of earlier requests with the same body."""
    path: str
    headers: dict[str, str]
    body: dict[str, Any]

    @property
    def content(self) -> list[dict[str, Any]]:
        (message,) = self.body["messages"]
        assert message["role"] == "user"
        return list(message["content"])

    @property
    def text(self) -> str:
        return str(next(part["text"] for part in self.content if part["type"] == "text"))

    @property
    def image(self) -> tuple[str, bytes]:
        """Media type and bytes of the image."""
        url = next(part["image_url"]["url"] for part in self.content if part["type"] == "image_url")
        media, data = url.removeprefix("data:").split(";base64,")
        return media, base64.b64decode(data, validate=True)

    @property
    def points(self) -> int:
        """Number of test points in the prompt."""
        listed = re.search(r"\['.*?'\]", self.text)
        assert listed is not None
        return len(ast.literal_eval(listed[0]))


@dataclass(frozen=True)
class Reply:
    """A response of the server. cut: the number of body bytes after which the server closes the connection."""

    status: int = 200
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)
    cut: int | None = None
    hang: bool = False
    """Send nothing until the server ends."""


def completion(text: str | list[Any] | None, finish_reason: str = "stop") -> Reply:
    """A chat completion."""
    choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": finish_reason}
    return Reply(body=json.dumps({"object": "chat.completion", "choices": [choice]}).encode())


def valid_reply(request: JudgeRequest) -> Reply:
    """A valid response: every second point is met, starting with the first."""
    scores = [1 - place % 2 for place in range(request.points)]
    return completion(f"<analysis>{['looked'] * request.points}</analysis><score>{scores}</score>")


class JudgeServer:
    """An HTTP server on a free loopback port until `close`. `plan` maps each request to a reply."""

    def __init__(self, plan: Callable[[JudgeRequest], Reply] = valid_reply) -> None:
        self.plan = plan
        self.requests: list[JudgeRequest] = []
        self.connections = 0
        self._bodies: Counter[bytes] = Counter()
        self._lock = threading.Lock()
        self._ended = threading.Event()
        server = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True

            def setup(self) -> None:
                super().setup()
                server.connections += 1

            def do_POST(self) -> None:
                data = self.rfile.read(int(self.headers["Content-Length"]))
                server.answer(self, data)

            def log_message(self, format: str, *args: Any) -> None:
                return

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01})
        self._thread.start()
        self.url = f"http://127.0.0.1:{self._server.server_port}/v1"

    def answer(self, handler: BaseHTTPRequestHandler, data: bytes) -> None:
        with self._lock:
            request = JudgeRequest(
                len(self.requests), self._bodies[data], handler.path, dict(handler.headers.items()), json.loads(data)
            )
            self.requests.append(request)
            self._bodies[data] += 1
        reply = self.plan(request)
        if reply.hang:
            self._ended.wait()
            handler.close_connection = True
            return
        handler.send_response(reply.status)
        for name, value in {"Content-Length": str(len(reply.body)), **reply.headers}.items():
            handler.send_header(name, value)
        handler.end_headers()
        handler.wfile.write(reply.body[: reply.cut])
        handler.close_connection = reply.cut is not None

    def close(self) -> None:
        self._ended.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


Serve = Callable[..., JudgeServer]
"""Starts a server with a plan."""
