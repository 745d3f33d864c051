"""Preprocessing of images with any aspect ratio: Pillow's pixels, and memory bounded by input and output."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import interpolate
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from worker.engine.rewards.preprocessing import center_square, resize_tensor, squashed

SIZE = 224


class Largest(TorchDispatchMode):
    """Records the number of elements of the largest tensor."""

    numel = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = function(*args, **(kwargs or {}))
        self.numel = max([self.numel, *(one.numel() for one in tree_leaves(result) if isinstance(one, Tensor))])
        return result


def noise(height: int, width: int) -> Tensor:
    levels = torch.randint(0, 256, (1, 3, height, width), generator=torch.Generator().manual_seed(height))
    return levels.float() / 255


def tensor_square(images: Tensor, size: int) -> Tensor:
    return center_square(images, size, resized=resize_tensor)


@pytest.mark.parametrize("prepare", [squashed, center_square, tensor_square])
@pytest.mark.parametrize(("height", "width"), [(1, 4000), (4000, 1), (200, 8000), (1, 1), (16_384, 2), (300, 400)])
def test_memory_is_bounded_by_input_and_output(
    prepare: Callable[[Tensor, int], Tensor], height: int, width: int
) -> None:
    images = noise(height, width)
    with Largest() as largest:
        assert prepare(images, SIZE).shape == (1, 3, SIZE, SIZE)
    assert largest.numel <= 3 * SIZE * (max(height, width) + SIZE)


@pytest.mark.parametrize(("height", "width"), [(1, 300), (300, 1), (5, 200), (150, 7), (40, 500)])
def test_center_of_a_long_image_has_the_pixels_of_pillow(height: int, width: int) -> None:
    images, size = noise(height, width), 16
    tall, wide = (int(size * side / min(height, width)) for side in (height, width))
    top, left = round((tall - size) / 2), round((wide - size) / 2)
    levels = (images[0] * 255).to(torch.uint8).permute(1, 2, 0).numpy()
    small = Image.fromarray(levels).resize((wide, tall), Image.Resampling.BICUBIC)
    cropped = torch.tensor(list(small.crop((left, top, left + size, top + size)).tobytes()))
    expected = cropped.view(size, size, 3).permute(2, 0, 1)
    assert torch.equal((center_square(images, size)[0] * 255).round().long(), expected)
    whole = interpolate(images, (tall, wide), mode="bicubic", antialias=True)
    part = whole[..., top : top + size, left : left + size]
    torch.testing.assert_close(tensor_square(images, size), part, rtol=0, atol=1e-4)
