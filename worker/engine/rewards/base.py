"""The reward interface: rewards score images for their prompts."""

import logging
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass

import torch
from torch import Tensor

from service.contracts.catalog import RewardEntry

logger = logging.getLogger(__name__)


class Reward(ABC):
    """Scores images for their prompts. Implementations are stateless and thread-safe."""

    @classmethod
    @abstractmethod
    def load(cls, entry: RewardEntry, device: torch.device) -> "Reward":
        """Load the reward of a catalog entry onto `device`."""

    def move(self, device: torch.device) -> None:  # noqa: B027, most rewards have nothing to move
        """Move the weights to `device`. A run loads its rewards on the CPU and moves them for scoring.

        Values are the same up to the device's rounding. Must not be called while another thread is scoring.
        """

    @abstractmethod
    def score(self, images: Tensor, prompts: Sequence[str]) -> Tensor:
        """Score images [n, 3, height, width] in 0..1 for their n prompts.

        Returns n values in at least float32; NaN means that scoring failed.
        """

    def score_with_causes(self, images: Tensor, prompts: Sequence[str]) -> tuple[Tensor, list[str]]:
        """Return the result of `score` and a cause for each missing value.

        The cause is "" if it is unknown or if the value is present.
        """
        return self.score(images, prompts), [""] * len(prompts)

    def identity(self) -> dict[str, str | None]:
        """Return the settings besides the weights that determine the values, for the provenance of a run."""
        return {}


@dataclass(frozen=True)
class Answers:
    """A value for each image (NaN if it failed), failure counts by kind, and a description of one failure."""

    values: tuple[float, ...]
    missing: Counter[str]
    cause: str = ""


class RemoteReward(Reward):
    """A reward computed by a server, concurrently with other rewards. Thread-safe."""

    server: str
    """Host and port of the server."""

    @abstractmethod
    def begin(
        self, images: Tensor, prompts: Sequence[str], check: Callable[[], None] = lambda: None
    ) -> "list[Future[Answers]]":
        """Send requests and return one future per request, in image order. The futures never raise.

        Each future holds the answers for consecutive images. While too many requests are pending, this method waits and
        calls `check`, which may raise.
        """

    def score(self, images: Tensor, prompts: Sequence[str]) -> Tensor:
        return self.score_with_causes(images, prompts)[0]

    def score_with_causes(self, images: Tensor, prompts: Sequence[str]) -> tuple[Tensor, list[str]]:
        answers = [future.result() for future in self.begin(images, prompts)]
        values = torch.tensor([value for answer in answers for value in answer.values], dtype=torch.float32)
        return values, [answer.cause for answer in answers for _ in answer.values]


def score_or_missing(reward: Reward, name: str, images: Tensor, prompts: Sequence[str]) -> tuple[Tensor, list[str]]:
    """Score images and turn exceptions and wrong value counts into missing values with a cause.

    Values are float32 on the CPU; infinite values count as missing. A failing reward must neither end the run nor
    count as 0.
    """
    try:
        values, causes = reward.score_with_causes(images, prompts)
        values = values.detach().float().cpu()
        if values.shape != (len(prompts),):
            raise ValueError(f"{tuple(values.shape)} values for {len(prompts)} images")
    except torch.OutOfMemoryError:
        raise  # the run handles it
    except Exception as error:  # rewards may be third-party code: any exception means missing values
        logger.warning("reward %s failed on %d images", name, len(prompts), exc_info=True)
        missing = torch.full((len(prompts),), torch.nan, dtype=torch.float32)
        return missing, [f"{type(error).__name__}: {error}"] * len(prompts)
    return torch.where(values.isfinite(), values, torch.nan), causes
