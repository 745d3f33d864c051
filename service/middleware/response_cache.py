"""Answers kept for as long as nothing in the database has changed that they are made of.

Every request looks its key up, and is told with it the database's snapshot: which transactions have ended. While the
snapshot stays the same, so does every answer that is made of rows alone, wherever a change might have come from: nobody
is told less than the database would tell.

What an ended run shows of itself is made of fewer rows. Whoever adds to its curves, groups, samples or log writes down
in the attempt's row how far the attempt's files were read, in the same transaction (`worker/jobs/ingest.py`);
everything else is in the run's own row. So such answers hold while these rows are those of the same transactions.
"""

import time
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.auth.principal import Admitted

OPERATIONS = frozenset(
    {"getCatalog", "listRuns", "getRun", "listAttempts", "getCurves", "listRewardGroups", "listSamples", "getLogs"}
    | {"listCheckpoints", "listAllCheckpoints", "getCheckpoint", "listGenerations", "getGeneration", "getSampleImage"}
    | {"listEvaluations", "getEvaluation", "getEvaluationLogs"}
    | {"listPromptSets", "getPromptSet", "listPrompts"}
    | {"listScores", "getScore"}
    | {"listAnswers", "listImages", "getLeaderboard"}
)
"""What is answered from rows, and files that never change, alike to everybody who may ask."""
_OF_ITS_RUN = frozenset(
    {"getRun", "listAttempts", "getCurves", "listRewardGroups", "listSamples", "getSampleImage", "getLogs"}
)
"""Of these, what is made of one run's rows, and once it has ended of no others."""
_SECONDS = 1.0
"""Longest time for which anything is kept: the catalog tells which workers were heard of lately, by the clock."""
_ENDED_SECONDS = 60.0
_MOST_BYTES, _MOST_BYTES_ENDED = 4 * 2**20, 16 * 2**20
_Key = tuple[str, str, bytes, tuple[str, ...]]


def run_asked(operation: str | None, path_params: Mapping[str, Any]) -> uuid.UUID | None:
    """The run whose rows alone an operation shows, once it has ended."""
    if operation not in _OF_ITS_RUN:
        return None
    try:
        return uuid.UUID(path_params["run_id"])
    except ValueError:
        return None


@dataclass
class KeptAnswers:
    """The answers of this process. For the event loop's thread alone."""

    _lately: "_Answers" = field(default_factory=lambda: _Answers(_MOST_BYTES))
    _ended: "_Answers" = field(default_factory=lambda: _Answers(_MOST_BYTES_ENDED))

    async def answer(self, admitted: Admitted, app: ASGIApp, connection: Scope, receive: Receive, send: Send) -> None:
        """Answer as `app` would, or did. `admitted` tells what was seen of the database since the request came."""
        headers = Headers(scope=connection)
        if "prefer" in headers or "if-none-match" in headers:  # it wants to wait for a change, or to be told of none
            await app(connection, receive, send)
            return
        if admitted.ended is not None:
            answers, state, seconds = self._ended, admitted.ended, _ENDED_SECONDS
        else:
            answers, state, seconds = self._lately, admitted.snapshot or "", _SECONDS
        key = (state, connection["path"], connection["query_string"], tuple(headers.getlist("accept")))
        if kept := answers.of(key):
            for message in kept:
                await send(dict(message))
            return
        messages: list[Message] = []

        async def noted(message: Message) -> None:
            messages.append(dict(message))
            await send(message)

        await app(connection, receive, noted)
        answers.keep(key, messages, seconds)


@dataclass
class _Answers:
    """Answers by what was asked and what was there; the oldest give way."""

    most_bytes: int
    _bytes: int = 0
    _answers: dict[_Key, tuple[float, int, list[Message]]] = field(default_factory=dict)

    def of(self, key: _Key) -> list[Message]:
        """The answer, as its messages; none where it is not kept, or not any more."""
        until, _, messages = self._answers.get(key, (0.0, 0, []))
        return messages if time.monotonic() < until else []

    def keep(self, key: _Key, messages: list[Message], seconds: float) -> None:
        """Keep a whole answer with status 200, of one piece."""
        match messages:
            case [{"status": 200}, {"body": bytes(body)}] if len(body) <= self.most_bytes // 8:
                self._drop(key)
                self._answers[key] = time.monotonic() + seconds, len(body) + len(key[2]), messages
                self._bytes += len(body) + len(key[2])
                while self._bytes > self.most_bytes:
                    self._drop(next(iter(self._answers)))

    def _drop(self, key: _Key) -> None:
        _, size, _ = self._answers.pop(key, (0.0, 0, []))
        self._bytes -= size
