"""What every judge is: it is shown an image, and says which of the prompt's test points it meets."""

from abc import ABC, abstractmethod
from dataclasses import dataclass

from service.contracts.benchmarks.data import Benchmark, BenchmarkPrompt
from service.contracts.benchmarks.judging import Failure, Verdict
from service.contracts.catalog import JudgeEntry


class JudgeFailed(Exception):
    """The judge is away, or was set up wrongly: nothing more can be asked of it."""


class Abandoned(Exception):
    """The judge was closed while it was asked."""


@dataclass(frozen=True)
class Said:
    """What came of asking once. `error` says why there is no `text`, where asking again at once would be no use."""

    text: str | None
    verdict: Verdict
    error: str = ""
    seconds: float = 0.0

    @classmethod
    def nothing(cls, error: str, seconds: float) -> "Said":
        """There is no answer, for that reason."""
        return cls(None, Verdict(None, Failure.NO_ANSWER), error, seconds)


class Judge(ABC):
    """Answers about one image at a time. Any thread may ask."""

    entry: JudgeEntry
    concurrency: int
    """How many threads are worth asking from."""

    @classmethod
    @abstractmethod
    def load(cls, entry: JudgeEntry, benchmark: Benchmark) -> "Judge":
        """Make the judge from its catalog entry; ValueError where it cannot judge this benchmark."""

    @abstractmethod
    def ask(self, prompt: BenchmarkPrompt, image: bytes) -> Said:
        """Ask once about an image, a PNG file as it was drawn.

        Raises JudgeFailed where no answer to any question can be expected, and Abandoned after `close`.
        """

    def close(self) -> None:
        """Let go of whoever is waiting for an answer, as soon as can be. Nothing is asked afterwards."""
        return
