"""HPS v2.1: a CLIP ViT-H/14 that was trained on people's preferences; the cosine of image and prompt.

Source: Wu et al. 2023, arXiv:2306.09341, and its public implementation tgxs002/HPSv2.
"""

from collections.abc import Sequence
from functools import partial
from typing import ClassVar

from service.contracts.catalog import Source
from worker.engine.rewards.clip import ClipReward, Fit
from worker.engine.rewards.preprocessing import OPENAI_MEAN, OPENAI_STD, centre_square, resize_tensor


class HpsReward(ClipReward):
    """Values are comparable for one prompt only; they mostly lie between 0.14 and 0.33."""

    published: ClassVar[tuple[str, ...]] = ("HPS_v2.1_compressed.pt",)
    described: ClassVar[bool] = False  # it is open_clip's ViT-H-14, with GELU

    @classmethod
    def cleans_text(cls, source: Source) -> bool:
        return True

    @classmethod
    def normalisation(cls, source: Source) -> tuple[Sequence[float], Sequence[float]]:
        return OPENAI_MEAN, OPENAI_STD

    @classmethod
    def fit(cls, source: Source) -> Fit:
        """The middle square, resized as the authors do: on the tensor, with no rounding and no clamping."""
        return partial(centre_square, resized=resize_tensor)
