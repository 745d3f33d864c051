"""The bundled world's rule-based reward: the share of a caption's predicates that an image satisfies."""

from collections.abc import Sequence

import torch
from torch import Tensor

from service.contracts.catalog import RewardEntry
from worker.engine.rewards.base import Reward
from worker.shapes.grammar import parse
from worker.shapes.points import predicates
from worker.shapes.verifier import verifier_score


class ShapesVerifierReward(Reward):
    """Partial credit in 0..1, read from the pixels. A prompt that is no caption of the bundled world scores NaN."""

    @classmethod
    def load(cls, entry: RewardEntry, device: torch.device) -> "ShapesVerifierReward":
        return cls()

    def score(self, images: Tensor, prompts: Sequence[str]) -> Tensor:
        known = [index for index, prompt in enumerate(prompts) if self._is_caption(prompt)]
        values = torch.full((len(prompts),), torch.nan)
        if known:
            values[known] = self.verify(images[known].float().cpu(), [prompts[index] for index in known])
        return values

    def verify(self, images: Tensor, captions: Sequence[str]) -> Tensor:
        """The value of each image for its caption."""
        return verifier_score(images, captions)

    def read(self, prompt: str) -> object:
        """What the prompt says; ValueError if it is no caption."""
        return predicates(parse(prompt))

    def _is_caption(self, prompt: str) -> bool:
        try:
            self.read(prompt)
        except ValueError:
            return False
        return True
