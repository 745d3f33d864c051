"""Judges that use the OpenAI chat protocol: vision-language models on vLLM, Gemini's compatible endpoint and others."""

import threading
import time

from service.contracts.benchmarks.data import Benchmark, BenchmarkPrompt, JudgePrompt
from service.contracts.benchmarks.judge_answers import read_answer
from service.contracts.catalog import JudgeEntry
from worker.engine.evaluation.judges.base import Judge, JudgeClosed, JudgeFailed, JudgeResponse
from worker.engine.remote import chat
from worker.engine.remote.http_client import Misconfigured, RequestFailed, RequestRejected, Server, retrying

MAX_OWN_FAULTS = 8
"""An image is skipped after this many failures that occur while the judge responds to other requests."""


class _Availability:
    """Tracks how long the judge has not responded to any thread."""

    def __init__(self, judge: str, seconds: float) -> None:
        self._judge, self._seconds = judge, seconds
        self._lock = threading.Lock()
        self._responded_at = float("-inf")
        self._failing_since: float | None = None

    def answered(self) -> None:
        """Record that the judge responded."""
        with self._lock:
            self._responded_at, self._failing_since = time.monotonic(), None

    def failed(self, started: float, fault: RequestFailed) -> float:
        """Record the failure of a request sent at `started` and return the time of the last response.

        Raises JudgeFailed if the judge has not responded for too long.
        """
        with self._lock:
            if self._failing_since is None:
                self._failing_since = max(started, self._responded_at)
            seconds = time.monotonic() - self._failing_since
            if seconds >= self._seconds:
                raise JudgeFailed(
                    f"judge {self._judge!r} has not responded for {seconds:.0f} seconds; last error: {fault}"
                )
            return self._responded_at


class OpenAIJudge(Judge):
    """Sends images with the benchmark's prompt template to a server. Its threads share a connection pool."""

    def __init__(self, entry: JudgeEntry, words: JudgePrompt, first_wait: float = 0.5) -> None:
        self.entry, self.concurrency = entry, entry.concurrency
        self._words = words
        try:
            self._server = Server(f"judge {entry.name!r}", entry)
        except Misconfigured as error:
            raise JudgeFailed(str(error)) from error
        self._availability = _Availability(entry.name, entry.patience_seconds)
        self._closed = threading.Event()
        self._retrying = retrying(self._closed, first_wait)

    @classmethod
    def load(cls, entry: JudgeEntry, benchmark: Benchmark) -> "OpenAIJudge":
        if benchmark.judge is None:
            raise ValueError(
                f"judge {entry.name!r} needs a prompt template, and the benchmark {benchmark.name!r} has none; "
                "use the judge `perception`"
            )
        return cls(entry, benchmark.judge)

    def ask(self, prompt: BenchmarkPrompt, image: bytes) -> JudgeResponse:
        if self._closed.is_set():
            raise JudgeClosed(f"judge {self.entry.name!r} was closed")
        body = chat.question(self.entry, image, self._words.fill(prompt))
        first = time.monotonic()
        own_faults, failed_at = 0, first

        def once() -> JudgeResponse:
            nonlocal own_faults, failed_at
            started = time.monotonic()
            try:
                answer = chat.completion(self._server, self._server.post(chat.PATH, body))
            except RequestFailed as fault:
                others_succeed = self._availability.failed(started, fault) > failed_at
                own_faults, failed_at = own_faults + (others_succeed and not fault.throttled), time.monotonic()
                if own_faults >= MAX_OWN_FAULTS:
                    return JudgeResponse.nothing(
                        f"failed {own_faults} times while other requests succeeded: {fault}", _since(first)
                    )
                raise
            self._availability.answered()
            verdict = read_answer(answer.text, len(prompt.points), answer.truncated)
            return JudgeResponse(answer.text, verdict, seconds=_since(started))

        try:
            return self._retrying(once)
        except RequestRejected as refusal:
            return JudgeResponse.nothing(str(refusal), _since(first))
        except Misconfigured as error:
            raise JudgeFailed(str(error)) from error
        except RequestFailed as fault:
            raise JudgeClosed(f"judge {self.entry.name!r} was closed; last error: {fault}") from fault

    def close(self) -> None:
        self._closed.set()


def _since(started: float) -> float:
    return time.monotonic() - started
