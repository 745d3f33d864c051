"""The interface of judges, which determine the test points of a prompt that an image meets."""

from abc import ABC, abstractmethod
from dataclasses import dataclass

from service.contracts.benchmarks.data import Benchmark, BenchmarkPrompt
from service.contracts.benchmarks.judge_answers import Failure, Verdict
from service.contracts.catalog import JudgeEntry


class JudgeFailed(Exception):
    """Raised when the judge is unavailable or misconfigured, so that further requests would not help."""


class JudgeClosed(Exception):
    """Raised for a request to a closed judge, or if the judge is closed during the request."""


@dataclass(frozen=True)
class JudgeResponse:
    """The result of one request.

    error: why `text` is missing, if retrying the request now would not help; otherwise empty.
    """

    text: str | None
    verdict: Verdict
    error: str = ""
    seconds: float = 0.0

    @classmethod
    def nothing(cls, error: str, seconds: float) -> "JudgeResponse":
        """Create the result of a request that received no answer."""
        return cls(None, Verdict(None, Failure.NO_ANSWER), error, seconds)


class Judge(ABC):
    """Judges one image per call. Safe to call from any thread."""

    entry: JudgeEntry
    concurrency: int
    """The number of threads that may send requests simultaneously."""

    @classmethod
    @abstractmethod
    def load(cls, entry: JudgeEntry, benchmark: Benchmark) -> "Judge":
        """Create the judge from its catalog entry. Raises ValueError if it cannot judge `benchmark`."""

    @abstractmethod
    def ask(self, prompt: BenchmarkPrompt, image: bytes) -> JudgeResponse:
        """Ask the judge about an image, given as a PNG file.

        Raises JudgeFailed if further requests would not help, and JudgeClosed after `close`.
        """

    def close(self) -> None:
        """End pending requests as soon as possible and send no new ones."""
        return
