"""What every reward is: a scorer of images against their prompts."""

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
    """Scores images; stateless towards its caller, who may have several threads."""

    @classmethod
    @abstractmethod
    def load(cls, entry: RewardEntry, device: torch.device) -> "Reward":
        """Make the reward from its catalog entry."""

    def move(self, device: torch.device) -> None:  # noqa: B027, most rewards have nothing to move
        """Move the weights, and what goes with them, to `device`; a run loads its rewards on the CPU and moves them.

        Values are the same up to the device's rounding. Never while another thread scores.
        """

    @abstractmethod
    def score(self, images: Tensor, prompts: Sequence[str]) -> Tensor:
        """images [n, 3, height, width] in 0..1 and their n prompts → n values, float32 or better; NaN = failed."""

    def score_with_causes(self, images: Tensor, prompts: Sequence[str]) -> tuple[Tensor, list[str]]:
        """`score`, and for each image why it has no value, if it has none; "" where nobody says so."""
        return self.score(images, prompts), [""] * len(prompts)

    def identity(self) -> dict[str, str | None]:
        """What besides weights decides the values, for a run's provenance."""
        return {}


@dataclass(frozen=True)
class Answers:
    """A value for each of some images, NaN = failed; how many failed by kind of cause, and the last one in words."""

    values: tuple[float, ...]
    missing: Counter[str]
    cause: str = ""


class RemoteReward(Reward):
    """A reward that a server computes, so that others may compute meanwhile. Any thread may begin."""

    server: str
    """Its host and port."""

    @abstractmethod
    def begin(
        self, images: Tensor, prompts: Sequence[str], check: Callable[[], None] = lambda: None
    ) -> "list[Future[Answers]]":
        """Have the server asked; the answers about consecutive images, in order, which never raise.

        Waits while too much is being asked already, and calls `check` then, which may raise.
        """

    def score(self, images: Tensor, prompts: Sequence[str]) -> Tensor:
        return self.score_with_causes(images, prompts)[0]

    def score_with_causes(self, images: Tensor, prompts: Sequence[str]) -> tuple[Tensor, list[str]]:
        answers = [future.result() for future in self.begin(images, prompts)]
        values = torch.tensor([value for answer in answers for value in answer.values], dtype=torch.float32)
        return values, [answer.cause for answer in answers for _ in answer.values]


def score_or_missing(reward: Reward, name: str, images: Tensor, prompts: Sequence[str]) -> tuple[Tensor, list[str]]:
    """`reward.score_with_causes`, with an exception or a wrong count turned into missing values and their cause.

    Values are float32 on the CPU; infinities count as missing. A failing reward must not end a run that has others,
    nor be 0.
    """
    try:
        values, causes = reward.score_with_causes(images, prompts)
        values = values.detach().float().cpu()
        if values.shape != (len(prompts),):
            raise ValueError(f"{tuple(values.shape)} values for {len(prompts)} images")
    except torch.OutOfMemoryError:
        raise  # the run's own trouble, with a remedy of its own
    except Exception as error:  # a reward may be anybody's code: whatever it raises is a missing value
        logger.warning("reward %s failed on %d images", name, len(prompts), exc_info=True)
        missing = torch.full((len(prompts),), torch.nan, dtype=torch.float32)
        return missing, [f"{type(error).__name__}: {error}"] * len(prompts)
    return torch.where(values.isfinite(), values, torch.nan), causes
