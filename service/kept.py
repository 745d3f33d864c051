"""Answers kept for as long as nothing in the database has changed.

Every request looks its key up, and is told the database's snapshot with it: which transactions have ended. While the
snapshot stays the same, so does every answer that is made of rows alone, wherever a change might have come from: nobody
is told less than the database would tell.
"""

import time
from dataclasses import dataclass, field

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

OPERATIONS = frozenset(
    {"getCatalog", "listRuns", "getRun", "listAttempts", "getCurves", "listRewardGroups", "listSamples", "getLogs"}
    | {"listCheckpoints", "listAllCheckpoints", "getCheckpoint", "listGenerations", "getGeneration"}
    | {"listEvaluations", "getEvaluation", "getEvaluationLogs"}
    | {"listAnswers", "listPictures", "getLeaderboard"}
)
"""What is answered from rows, alike to everybody who may ask."""
_SECONDS = 1.0
"""Longest time for which anything is kept: the catalog tells which workers were heard of lately, by the clock."""
_MOST_BYTES = 4 * 2**20
_Key = tuple[str, bytes, tuple[str, ...]]


@dataclass
class KeptAnswers:
    """The answers of one snapshot. For the event loop's thread alone."""

    _snapshot: str = ""
    _until: float = 0.0
    _bytes: int = 0
    _answers: dict[_Key, list[Message]] = field(default_factory=dict)

    async def answer(self, snapshot: str, app: ASGIApp, connection: Scope, receive: Receive, send: Send) -> None:
        """Answer as `app` would, or did. `snapshot` is the database's, seen since the request came."""
        headers = Headers(scope=connection)
        if "prefer" in headers:  # it wants to wait for a change
            await app(connection, receive, send)
            return
        key = (connection["path"], connection["query_string"], tuple(headers.getlist("accept")))
        for message in self._of(snapshot).get(key, ()):
            await send(dict(message))
            if message["type"] == "http.response.body":
                return
        messages: list[Message] = []

        async def noted(message: Message) -> None:
            messages.append(dict(message))
            await send(message)

        await app(connection, receive, noted)
        self._keep(snapshot, key, messages)

    def _of(self, snapshot: str) -> dict[_Key, list[Message]]:
        now = time.monotonic()
        if snapshot != self._snapshot or now >= self._until:
            self._snapshot, self._until, self._bytes, self._answers = snapshot, now + _SECONDS, 0, {}
        return self._answers

    def _keep(self, snapshot: str, key: _Key, messages: list[Message]) -> None:
        match messages:
            case [{"status": 200}, {"body": bytes(body)}] if snapshot == self._snapshot:
                size = len(body) + len(key[1])
                if self._bytes + size <= _MOST_BYTES:
                    self._bytes += size
                    self._answers[key] = messages
