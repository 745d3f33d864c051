"""HPS v2.1: the cosine similarity of image and prompt from a CLIP ViT-H/14 trained on human preferences.

Source: Wu et al. 2023, arXiv:2306.09341, and its public implementation tgxs002/HPSv2.
"""

from functools import partial
from typing import ClassVar

from service.contracts.catalog import Source
from worker.engine.rewards.clip import ClipReward, Preprocessing
from worker.engine.rewards.preprocessing import center_square, resize_tensor


class HpsReward(ClipReward):
    """The HPS v2.1 score, mostly between 0.14 and 0.33. Values are comparable only between images of one prompt."""

    published: ClassVar[tuple[str, ...]] = ("HPS_v2.1_compressed.pt",)
    described: ClassVar[bool] = False  # always open_clip's ViT-H-14 with GELU

    @classmethod
    def preprocessing(cls, source: Source) -> Preprocessing:
        """Return the authors' preprocessing: center square, resized as a tensor without rounding or clamping."""
        return Preprocessing(partial(center_square, resized=resize_tensor))
