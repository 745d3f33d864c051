"""PickScore: a CLIP ViT-H/14 that was trained on the choices of Pick-a-Pic; the scaled cosine of image and prompt.

Source: Kirstain et al. 2023, arXiv:2305.01569, and its public implementation yuvalkirstain/PickScore.
"""

import math
from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor

from service.contracts.catalog import Source
from worker.engine.rewards.clip import ClipReward, Fit
from worker.engine.rewards.preprocessing import OPENAI_MEAN, OPENAI_STD, centre_square


class PickScoreReward(ClipReward):
    """exp(logit_scale) · cosine, mostly between 18 and 24."""

    @classmethod
    def cleans_text(cls, source: Source) -> bool:
        return False  # the authors use transformers' processor, which repairs nothing

    @classmethod
    def fit(cls, source: Source) -> Fit:
        """The middle square as transformers' processor cuts it, which rounds the margin down."""
        return partial(centre_square, whole=math.floor)

    @classmethod
    def normalisation(cls, source: Source) -> tuple[Sequence[float], Sequence[float]]:
        return OPENAI_MEAN, OPENAI_STD

    @torch.no_grad()
    def score(self, images: Tensor, prompts: Sequence[str]) -> Tensor:
        scale: Tensor = self.model.logit_scale.exp()
        return scale * super().score(images, prompts)
