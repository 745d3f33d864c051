"""PickScore: the scaled cosine similarity of image and prompt from a CLIP ViT-H/14 trained on Pick-a-Pic choices.

Source: Kirstain et al. 2023, arXiv:2305.01569, and its public implementation yuvalkirstain/PickScore.
"""

import math
from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor

from service.contracts.catalog import Source
from worker.engine.rewards.clip import ClipReward, Preprocessing
from worker.engine.rewards.preprocessing import center_square


class PickScoreReward(ClipReward):
    """The PickScore, exp(logit_scale) · cosine, mostly between 18 and 24."""

    @classmethod
    def preprocessing(cls, source: Source) -> Preprocessing:
        """Return the preprocessing of transformers' processor: margins are rounded down, texts are not cleaned."""
        return Preprocessing(partial(center_square, whole=math.floor), cleans_text=False)

    @torch.no_grad()
    def score(self, images: Tensor, prompts: Sequence[str]) -> Tensor:
        scale: Tensor = self.model.logit_scale.exp()
        return scale * super().score(images, prompts)
