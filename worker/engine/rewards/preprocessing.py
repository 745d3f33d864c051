"""Images as encoders want them: Pillow's bicubic resizing on tensors, bit for bit."""

from collections.abc import Callable
from functools import lru_cache

import torch
from torch import Tensor
from torch.nn.functional import interpolate

OPENAI_MEAN, OPENAI_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
"""Of the channels, by which OpenAI's CLIP and what descends from it normalize."""

_FRACTION = 2.0**22
"""Pillow's weights are integers of this unit (Resample.c); sums of them are exact in float64."""


def squashed(images: Tensor, size: int) -> Tensor:
    """Images [n, 3, height, width] in 0..1 at `size` by `size`; those of that size as they are."""
    return images if images.shape[-2:] == (size, size) else resize(images, size, size)


def middle(images: Tensor, size: int, whole: Callable[[float], int] = round) -> Tensor:
    """`center_square`, but for images of that size, which are left as they are, in floats."""
    return images if images.shape[-2:] == (size, size) else center_square(images, size, whole=whole)


def center_square(
    images: Tensor,
    size: int,
    resized: Callable[[Tensor, int, int], Tensor] | None = None,
    whole: Callable[[float], int] = round,
) -> Tensor:
    """The middle [n, 3, size, size] of images [n, 3, height, width] in 0..1, their shorter side resized to `size`.

    As torchvision's `Resize` and `CenterCrop` do it with Pillow's images, unless `resized` resizes otherwise; `whole`
    makes the margin an integer.
    """
    height, width = images.shape[-2:]
    tall, wide = (int(size * side / min(height, width)) for side in (height, width))
    top, left = whole((tall - size) / 2), whole((wide - size) / 2)
    return (resized or resize)(images, tall, wide)[..., top : top + size, left : left + size]


def resize_tensor(images: Tensor, height: int, width: int) -> Tensor:
    """Images [n, 3, rows, columns] as torchvision resizes tensors: bicubic, antialiased, in floats, unclamped."""
    if images.shape[-2:] == (height, width):
        return images
    return interpolate(images, (height, width), mode="bicubic", antialias=True)


def resize(images: Tensor, height: int, width: int) -> Tensor:
    """Images [..., rows, columns] in 0..1 as Pillow resizes them: bicubic, antialiased, in 8 bits.

    First columns, then rows, each time rounded to levels; the other way round where the columns grow and the rows
    shrink, as Pillow 13 does. It does so too for some images that shrink both ways, which are not distinguished here: a
    level of difference where an image is smooth, more in noise. The answer is k/255 in the dtype that was given.
    """
    levels = (images.float().clamp(0, 1) * 255).round().double()
    rows, columns = levels.shape[-2:]
    if columns <= width and rows > height:
        levels = _rows(levels, height)
        levels = _summed(levels, _weights(columns, width))
    else:
        levels = _summed(levels, _weights(columns, width))
        levels = _rows(levels, height)
    return levels.to(images.dtype) / 255


def _rows(levels: Tensor, height: int) -> Tensor:
    return _summed(levels.mT, _weights(levels.shape[-2], height)).mT


def _summed(levels: Tensor, weights: Tensor) -> Tensor:
    """The weighted sums of the last dimension, as levels."""
    return (levels @ weights.to(levels.device).mT / _FRACTION + 0.5).floor().clamp(0, 255)


@lru_cache(maxsize=64)
def _weights(given: int, wanted: int) -> Tensor:
    """[wanted, given]: what each given sample weighs in each wanted one, in units of `_FRACTION`.

    Keys' cubic with a = −½, as wide as the shrinking; cut at the edges and made to sum to one.
    """
    scale = given / wanted
    spread = max(scale, 1.0)
    centers = (torch.arange(wanted, dtype=torch.float64) + 0.5) * scale
    first = (centers - 2 * spread + 0.5).clamp(min=0).floor()[:, None]
    last = (centers + 2 * spread + 0.5).clamp(max=given).floor()[:, None]
    samples = torch.arange(given, dtype=torch.float64)[None]
    x = ((samples - centers[:, None] + 0.5) / spread).abs()
    near, far = (1.5 * x - 2.5) * x * x + 1, (((x - 5) * x + 8) * x - 4) * -0.5
    kernel = torch.where(x < 1, near, torch.where(x < 2, far, 0)) * ((samples >= first) & (samples < last))
    return (kernel / kernel.sum(dim=1, keepdim=True) * _FRACTION).round()
