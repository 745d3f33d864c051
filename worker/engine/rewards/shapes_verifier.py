"""Rule-based rewards for the bundled worlds: the share of a caption's predicates or test points that an image meets."""

from collections.abc import Sequence
from typing import Self

import torch
from torch import Tensor

from service.contracts.catalog import RewardEntry
from worker.engine.rewards.base import Reward
from worker.shapes.bench.judge import bench_score
from worker.shapes.grammar import parse
from worker.shapes.testpoints import predicates
from worker.shapes.verifier import verifier_score


class ShapesVerifierReward(Reward):
    """Share of a caption's predicates that the pixels satisfy, in 0..1.

    The value is NaN for prompts that are not captions of the world.
    """

    @classmethod
    def load(cls, entry: RewardEntry, device: torch.device) -> Self:
        return cls()

    def score(self, images: Tensor, prompts: Sequence[str]) -> Tensor:
        known = [index for index, prompt in enumerate(prompts) if self._is_caption(prompt)]
        values = torch.full((len(prompts),), torch.nan)
        if known:
            values[known] = self.verify(images[known].float().cpu(), [prompts[index] for index in known])
        return values

    def verify(self, images: Tensor, captions: Sequence[str]) -> Tensor:
        """Compute the values of images for their captions."""
        return verifier_score(images, captions)

    def check(self, prompt: str) -> None:
        """Raise ValueError if the prompt is not a caption of the world."""
        predicates(parse(prompt))

    def _is_caption(self, prompt: str) -> bool:
        try:
            self.check(prompt)
        except ValueError:
            return False
        return True


class ShapesBenchVerifierReward(ShapesVerifierReward):
    """Share of a caption's test points that the pixels satisfy in the world of `shapes-bench`, in 0..1.

    The value is NaN for prompts that are not captions of the world.
    """

    def verify(self, images: Tensor, captions: Sequence[str]) -> Tensor:
        return bench_score(images, captions)

    def check(self, prompt: str) -> None:
        parse(prompt)
