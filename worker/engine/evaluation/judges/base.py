"""The interface of a judge: from an image to the test points of its prompt that it meets."""

from abc import ABC, abstractmethod
from dataclasses import dataclass

from service.contracts.benchmarks.data import Benchmark, BenchmarkPrompt
from service.contracts.benchmarks.judging import Failure, Verdict
from service.contracts.catalog import JudgeEntry


class JudgeFailed(Exception):
    """The judge is unavailable or configured incorrectly; further requests are useless."""


class JudgeClosed(Exception):
    """The judge was closed during a request."""


@dataclass(frozen=True)
class JudgeResponse:
    """The result of one request. error: why there is no `text`, if repeating the request is useless now."""

    text: str | None
    verdict: Verdict
    error: str = ""
    seconds: float = 0.0

    @classmethod
    def nothing(cls, error: str, seconds: float) -> "JudgeResponse":
        """A request without an answer."""
        return cls(None, Verdict(None, Failure.NO_ANSWER), error, seconds)


class Judge(ABC):
    """Judges one image per call; any thread may call it."""

    entry: JudgeEntry
    concurrency: int
    """Number of threads that may send requests at the same time."""

    @classmethod
    @abstractmethod
    def load(cls, entry: JudgeEntry, benchmark: Benchmark) -> "Judge":
        """Create the judge from its catalog entry. Raises ValueError if it cannot judge this benchmark."""

    @abstractmethod
    def ask(self, prompt: BenchmarkPrompt, image: bytes) -> JudgeResponse:
        """Send one request about an image, a PNG file.

        Raises JudgeFailed if further requests are useless, and JudgeClosed after `close`.
        """

    def close(self) -> None:
        """End pending requests as soon as possible, and send no more."""
        return
