"""Image preprocessing for encoders: bicubic resizing of tensors that matches Pillow's results exactly."""

from collections.abc import Callable
from functools import lru_cache

import torch
from torch import Tensor
from torch.nn.functional import interpolate

OPENAI_MEAN, OPENAI_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
"""Channel means and standard deviations for OpenAI's CLIP and models derived from it."""

_FRACTION = 2.0**22
"""Pillow's resampling weights are multiples of 1 / _FRACTION (Resample.c). Their sums are exact in float64."""
_ORDINARY = 4
"""Maximum aspect ratio of images that `resize_tensor` resizes completely before it crops them."""

Size = tuple[int, int]
"""Height and width of a resized image."""
Crop = tuple[range, range]
"""The rows and columns of a resized image to compute."""


def squashed(images: Tensor, size: int) -> Tensor:
    """Resize images [n, 3, height, width] in 0..1 to `size` × `size`. Images of that size are returned unchanged."""
    return images if images.shape[-2:] == (size, size) else resize(images, (size, size), (range(size), range(size)))


def middle(images: Tensor, size: int, whole: Callable[[float], int] = round) -> Tensor:
    """Return the center square of images, as `center_square` does.

    Images of the target size are returned unchanged, without rounding to 8 bits.
    """
    return images if images.shape[-2:] == (size, size) else center_square(images, size, whole=whole)


def center_square(
    images: Tensor,
    size: int,
    resized: Callable[[Tensor, Size, Crop], Tensor] | None = None,
    whole: Callable[[float], int] = round,
) -> Tensor:
    """Resize the shorter side of images [n, 3, height, width] in 0..1 to `size` and crop the center square.

    The result matches torchvision's `Resize` and `CenterCrop` for Pillow images, but only the rows and columns of the
    square are computed. resized: the resize function, by default `resize`. whole: the function that rounds the margin
    to an integer.
    """
    height, width = images.shape[-2:]
    tall, wide = (int(size * side / min(height, width)) for side in (height, width))
    top, left = whole((tall - size) / 2), whole((wide - size) / 2)
    return (resized or resize)(images, (tall, wide), (range(top, top + size), range(left, left + size)))


def resize_tensor(images: Tensor, size: Size, crop: Crop) -> Tensor:
    """Resize images [n, 3, rows, columns] as torchvision resizes tensors: bicubic, antialiased, without clamping.

    Returns the rows and columns of the result in `crop`, in the input dtype. Images with an ordinary aspect ratio are
    resized by torch itself, whose float32 weights differ from ours by up to 3e-5.
    """
    if max(size) <= _ORDINARY * min(size):
        if images.shape[-2:] != size:
            images = interpolate(images, size, mode="bicubic", antialias=True)
        return images[..., crop[0].start : crop[0].stop, crop[1].start : crop[1].stop]
    (rows, down), (columns, across) = map(_weights, images.shape[-2:], size, crop)
    needed = images[..., rows, columns].double()
    return (down.to(images.device) @ (needed @ across.mT.to(images.device))).to(images.dtype)


def resize(images: Tensor, size: Size, crop: Crop) -> Tensor:
    """Resize images [..., rows, columns] in 0..1 as Pillow does: bicubic, antialiased, in 8 bits.

    Returns the rows and columns of the result in `crop`. The width is resized first, then the height, with rounding to
    8-bit levels after each step. As in Pillow 13, the order is reversed if the width does not shrink and the height
    does. Pillow 13 also reverses the order for some images that shrink in both dimensions; this function does not, so
    results differ by one level in smooth regions and by more in noise. Values are k/255 in the input dtype.
    """
    (rows, down), (columns, across) = map(_weights, images.shape[-2:], size, crop)
    levels = images[..., rows, columns].float().clamp(0, 1).mul_(255).round_().double()
    if images.shape[-1] <= size[1] and images.shape[-2] > size[0]:
        levels = _summed(_summed(levels.mT, down).mT, across)
    else:
        levels = _summed(_summed(levels, across).mT, down).mT
    return levels.to(images.dtype) / 255


def _summed(levels: Tensor, weights: Tensor) -> Tensor:
    """Compute weighted sums along the last dimension with Pillow's weights, rounded to 8-bit levels."""
    fractions = (weights * _FRACTION).round() / _FRACTION
    return (levels @ fractions.to(levels.device).mT + 0.5).floor().clamp(0, 255)


@lru_cache(maxsize=16)
def _weights(given: int, wanted: int, kept: range) -> tuple[slice, Tensor]:
    """Return the input samples that the output samples `kept` need, and the weights [kept, needed] in float64.

    The kernel is Keys' cubic with a = −½, widened when shrinking, truncated at the edges and normalized to sum to one.
    """
    scale = given / wanted
    spread = max(scale, 1.0)
    centers = (torch.arange(kept.start, kept.stop, dtype=torch.float64) + 0.5) * scale
    first = (centers - 2 * spread + 0.5).clamp(min=0).floor()[:, None]
    last = (centers + 2 * spread + 0.5).clamp(max=given).floor()[:, None]
    needed = slice(int(first[0]), int(last[-1]))
    samples = torch.arange(needed.start, needed.stop, dtype=torch.float64)[None]
    x = ((samples - centers[:, None] + 0.5) / spread).abs()
    near, far = (1.5 * x - 2.5) * x * x + 1, (((x - 5) * x + 8) * x - 4) * -0.5
    kernel = torch.where(x < 1, near, torch.where(x < 2, far, 0)) * ((samples >= first) & (samples < last))
    return needed, kernel / kernel.sum(dim=1, keepdim=True)
