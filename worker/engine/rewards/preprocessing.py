"""Image preprocessing for encoders: bicubic resizing of tensors that matches Pillow's results exactly."""

from collections.abc import Callable
from functools import lru_cache

import torch
from torch import Tensor
from torch.nn.functional import interpolate

OPENAI_MEAN, OPENAI_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
"""Channel means and standard deviations for OpenAI's CLIP and models derived from it."""

_FRACTION = 2.0**22
"""Scale of Pillow's integer resampling weights (Resample.c). Their sums are exact in float64."""


def squashed(images: Tensor, size: int) -> Tensor:
    """Resize images [n, 3, height, width] in 0..1 to `size` × `size`. Images of that size are returned unchanged."""
    return images if images.shape[-2:] == (size, size) else resize(images, size, size)


def middle(images: Tensor, size: int, whole: Callable[[float], int] = round) -> Tensor:
    """Return the center square of images, as `center_square` does.

    Images of the target size are returned unchanged, without rounding to 8 bits.
    """
    return images if images.shape[-2:] == (size, size) else center_square(images, size, whole=whole)


def center_square(
    images: Tensor,
    size: int,
    resized: Callable[[Tensor, int, int], Tensor] | None = None,
    whole: Callable[[float], int] = round,
) -> Tensor:
    """Resize the shorter side of images [n, 3, height, width] in 0..1 to `size` and crop the center square.

    The result matches torchvision's `Resize` and `CenterCrop` for Pillow images. resized: the resize function, by
    default `resize`. whole: the function that rounds the margin to an integer.
    """
    height, width = images.shape[-2:]
    tall, wide = (int(size * side / min(height, width)) for side in (height, width))
    top, left = whole((tall - size) / 2), whole((wide - size) / 2)
    return (resized or resize)(images, tall, wide)[..., top : top + size, left : left + size]


def resize_tensor(images: Tensor, height: int, width: int) -> Tensor:
    """Resize images [n, 3, rows, columns] as torchvision resizes tensors: bicubic, antialiased, without clamping."""
    if images.shape[-2:] == (height, width):
        return images
    return interpolate(images, (height, width), mode="bicubic", antialias=True)


def resize(images: Tensor, height: int, width: int) -> Tensor:
    """Resize images [..., rows, columns] in 0..1 as Pillow does: bicubic, antialiased, in 8 bits.

    The width is resized first, then the height, with rounding to 8-bit levels after each step. As in Pillow 13, the
    order is reversed if the width does not shrink and the height does. Pillow 13 also reverses the order for some
    images that shrink in both dimensions; this function does not, so results differ by one level in smooth regions and
    by more in noise. Values are k/255 in the input dtype.
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
    """Compute weighted sums along the last dimension, rounded to 8-bit levels."""
    return (levels @ weights.to(levels.device).mT / _FRACTION + 0.5).floor().clamp(0, 255)


@lru_cache(maxsize=64)
def _weights(given: int, wanted: int) -> Tensor:
    """Return the weights [wanted, given] of the input samples in each output sample, scaled by `_FRACTION`.

    The kernel is Keys' cubic with a = −½, widened when shrinking, truncated at the edges and normalized to sum to one.
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
