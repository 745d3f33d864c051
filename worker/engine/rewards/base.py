"""The interface of rewards: the score of images for their prompts."""

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
    """Scores images. Stateless and thread-safe."""

    @classmethod
    @abstractmethod
    def load(cls, entry: RewardEntry, device: torch.device) -> "Reward":
        """Load the reward of a catalog entry."""

    def move(self, device: torch.device) -> None:  # noqa: B027, most rewards have nothing to move
        """Move the weights to `device`. A run loads its rewards on the CPU and moves them for scoring.

        Values are the same up to the device's rounding. Not while another thread scores.
        """

    @abstractmethod
    def score(self, images: Tensor, prompts: Sequence[str]) -> Tensor:
        """images [n, 3, height, width] in 0..1 and their n prompts → n values, float32 or better; NaN = failed."""

    def score_with_causes(self, images: Tensor, prompts: Sequence[str]) -> tuple[Tensor, list[str]]:
        """`score`, and the cause of each missing value; "" if it is unknown or the value is present."""
        return self.score(images, prompts), [""] * len(prompts)

    def identity(self) -> dict[str, str | None]:
        """What determines the values besides the weights, for a run's provenance."""
        return {}


@dataclass(frozen=True)
class Answers:
    """A value for each image, NaN = failed; the number of failures by kind, and a description of the last one."""

    values: tuple[float, ...]
    missing: Counter[str]
    cause: str = ""


class RemoteReward(Reward):
    """A reward computed by a server, concurrently with others. Thread-safe."""

    server: str
    """Its host and port."""

    @abstractmethod
    def begin(
        self, images: Tensor, prompts: Sequence[str], check: Callable[[], None] = lambda: None
    ) -> "list[Future[Answers]]":
        """Send requests; the futures of the answers for consecutive images, in order, which never raise.

        Waits while too many requests are pending, and calls `check` meanwhile, which may raise.
        """

    def score(self, images: Tensor, prompts: Sequence[str]) -> Tensor:
        return self.score_with_causes(images, prompts)[0]

    def score_with_causes(self, images: Tensor, prompts: Sequence[str]) -> tuple[Tensor, list[str]]:
        answers = [future.result() for future in self.begin(images, prompts)]
        values = torch.tensor([value for answer in answers for value in answer.values], dtype=torch.float32)
        return values, [answer.cause for answer in answers for _ in answer.values]


def score_or_missing(reward: Reward, name: str, images: Tensor, prompts: Sequence[str]) -> tuple[Tensor, list[str]]:
    """`reward.score_with_causes`; exceptions and wrong counts become missing values with their cause.

    Values are float32 on the CPU; infinities count as missing. A failing reward must neither end the run nor
    count as 0.
    """
    try:
        values, causes = reward.score_with_causes(images, prompts)
        values = values.detach().float().cpu()
        if values.shape != (len(prompts),):
            raise ValueError(f"{tuple(values.shape)} values for {len(prompts)} images")
    except torch.OutOfMemoryError:
        raise  # handled by the run
    except Exception as error:  # rewards may be third-party code: any exception means missing values
        logger.warning("reward %s failed on %d images", name, len(prompts), exc_info=True)
        missing = torch.full((len(prompts),), torch.nan, dtype=torch.float32)
        return missing, [f"{type(error).__name__}: {error}"] * len(prompts)
    return torch.where(values.isfinite(), values, torch.nan), causes
