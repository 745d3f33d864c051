"""Vision-language models behind the OpenAI chat protocol: vLLM, Gemini's compatible endpoint, and others."""

import threading
import time

from service.contracts.benchmarks.data import Benchmark, BenchmarkPrompt, JudgePrompt
from service.contracts.benchmarks.judging import read_answer
from service.contracts.catalog import JudgeEntry
from worker.engine.evaluation.judges.base import Abandoned, Judge, JudgeFailed, Said
from worker.engine.remote import chat
from worker.engine.remote.server import Fault, Refused, Server, SetUpWrongly, retrying

OWN_FAULTS = 8
"""An image that fails so often, while the judge answers about others, is given up for now."""


class _Patience:
    """How long nobody has been answered, whoever asks."""

    def __init__(self, judge: str, seconds: float) -> None:
        self._judge, self._seconds = judge, seconds
        self._lock = threading.Lock()
        self._heard = float("-inf")
        self._away: float | None = None

    def answered(self) -> None:
        """Somebody was."""
        with self._lock:
            self._heard, self._away = time.monotonic(), None

    def failed(self, begun: float, fault: Fault) -> float:
        """A request that was sent at `begun` was not; when another was. JudgeFailed: it is too long ago."""
        with self._lock:
            if self._away is None:
                self._away = max(begun, self._heard)
            away = time.monotonic() - self._away
            if away >= self._seconds:
                raise JudgeFailed(f"judge {self._judge!r} has not answered for {away:.0f} seconds; at last: {fault}")
            return self._heard


class OpenAIJudge(Judge):
    """Asks in the benchmark's words; connections are kept and shared."""

    def __init__(self, entry: JudgeEntry, words: JudgePrompt, first_wait: float = 0.5) -> None:
        self.entry, self.concurrency = entry, entry.concurrency
        self._words = words
        try:
            self._server = Server(f"judge {entry.name!r}", entry)
        except SetUpWrongly as error:
            raise JudgeFailed(str(error)) from error
        self._patience = _Patience(entry.name, entry.patience_seconds)
        self._closed = threading.Event()
        self._retrying = retrying(self._closed, first_wait)

    @classmethod
    def load(cls, entry: JudgeEntry, benchmark: Benchmark) -> "OpenAIJudge":
        if benchmark.judge is None:
            raise ValueError(
                f"judge {entry.name!r} has to be told what is asked for, and the benchmark {benchmark.name!r} has no "
                "words for it: choose the judge `perception`"
            )
        return cls(entry, benchmark.judge)

    def ask(self, prompt: BenchmarkPrompt, image: bytes) -> Said:
        if self._closed.is_set():
            raise Abandoned(f"judge {self.entry.name!r} was closed")
        body = chat.question(self.entry, image, self._words.fill(prompt))
        first = time.monotonic()
        own_faults, failed = 0, first

        def once() -> Said:
            nonlocal own_faults, failed
            begun = time.monotonic()
            try:
                text = chat.completion(self._server, self._server.post(chat.PATH, body)).text
            except Fault as fault:
                others_heard = self._patience.failed(begun, fault) > failed
                own_faults, failed = own_faults + (others_heard and not fault.throttled), time.monotonic()
                if own_faults >= OWN_FAULTS:
                    return Said.nothing(f"{own_faults} times, while others were answered: {fault}", _since(first))
                raise
            self._patience.answered()
            return Said(text, read_answer(text, len(prompt.points)), seconds=_since(begun))

        try:
            return self._retrying(once)
        except Refused as refusal:
            return Said.nothing(str(refusal), _since(first))
        except SetUpWrongly as error:
            raise JudgeFailed(str(error)) from error
        except Fault as fault:
            raise Abandoned(f"judge {self.entry.name!r} was closed; at last: {fault}") from fault

    def close(self) -> None:
        self._closed.set()


def _since(begun: float) -> float:
    return time.monotonic() - begun
