"""Scenes of placed objects and signs, their images, and the ground truth of what the images show."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from worker.shapes import IMAGE_SIZE
from worker.shapes.image_content import PerceivedImage, PerceivedObject
from worker.shapes.render import ARM, BACKGROUND_PALETTE, HALF_BASE, HALF_DIAGONAL, HALF_SIDE, PALETTE, distance
from worker.shapes.words import BACKGROUNDS, COLORS, GLYPHS, OUTLINED, SOLID, STRIPED, TILTED, UPRIGHT

WALL = 2.5
"""Thickness of an outline in pixels."""
STRIPE = 3
"""Height in pixels of stripes and of the gaps between them. The autoencoder loses thinner stripes."""
STRIPED_HEIGHT = 5 * STRIPE
"""Height of every striped object in pixels: three stripes and two gaps."""
MIN_HIDDEN = 0.12
"""Minimum share of an object that another object must cover for the first to count as behind the second."""
BLOCK = 3
"""Side length in pixels of a block in a sign. The autoencoder loses thinner strokes."""
WIDTH, HEIGHT = 3 * BLOCK, 5 * BLOCK
"""Width and height of signs in pixels."""
_BLOCKS = {
    "C": "### #.. #.. #.. ###",
    "E": "### #.. ### #.. ###",
    "F": "### #.. ### #.. #..",
    "H": "#.# #.# ### #.# #.#",
    "L": "#.. #.. #.. #.. ###",
    "P": "### #.# ### #.. #..",
    "T": "### .#. .#. .#. .#.",
    "U": "#.# #.# #.# #.# ###",
    "2": "### ..# ### #.. ###",
    "3": "### ..# ### ..# ###",
    "4": "#.# #.# ### ..# ..#",
    "7": "### ..# ..# ..# ..#",
}
_TILTED_ARM = 0.997
_HALF_EXTENT = {
    "circle": (1.0, 1.0),
    "square": (HALF_SIDE, HALF_SIDE),
    "triangle": (HALF_BASE, 1.0),
    "diamond": (HALF_DIAGONAL, HALF_DIAGONAL),
    "cross": (ARM, ARM),
}
AXIS = torch.arange(IMAGE_SIZE) + 0.5
"""Pixel centers along a row or a column."""


def _ink(sign: str) -> Tensor:
    blocks = torch.tensor([[float(block == "#") for block in row] for row in _BLOCKS[sign].split()])
    return blocks.repeat_interleave(BLOCK, 0).repeat_interleave(BLOCK, 1)


INK = {sign: _ink(sign) for sign in GLYPHS}
"""Pixels [15, 9] of each sign, 1 where there is ink and 0 elsewhere."""


@dataclass(frozen=True)
class Placed:
    """An object and its position."""

    shape: str
    color: str
    radius: float
    x: float = 0.0
    """Distance from the left edge of the image to the center of the object's bounding box, in pixels."""
    y: float = 0.0
    """Distance from the top edge of the image to the center of the object's bounding box, in pixels."""
    style: str = SOLID
    pose: str = UPRIGHT

    @property
    def half(self) -> tuple[float, float]:
        """Half the width and half the height of the bounding box in pixels."""
        return half_extent(self.shape, self.pose, self.radius)


@dataclass(frozen=True)
class Scene:
    objects: tuple[Placed, ...]
    """The objects from back to front."""
    background: str


def half_extent(shape: str, pose: str, radius: float) -> tuple[float, float]:
    """Return half the width and half the height of the bounding box in pixels."""
    if shape in INK:
        return WIDTH / 2, HEIGHT / 2
    if pose == TILTED:
        return _TILTED_ARM * radius, _TILTED_ARM * radius
    across, down = _HALF_EXTENT[shape]
    return (down * radius, across * radius) if pose in ("left", "right") else (across * radius, down * radius)


def cover(shape: str, pose: str, style: str, radius: Tensor, dx: Tensor, dy: Tensor) -> Tensor:
    """Compute the share in [0, 1] of each pixel that an object covers.

    dx, dy: pixel offsets from the center of the object.
    """
    across, down = dx, dy
    if pose == "down":
        across, down = dx, -dy
    elif pose in ("left", "right"):
        across, down = dy, dx if pose == "left" else -dx
    elif pose == TILTED:
        across, down = (dx + dy) / 2**0.5, (dy - dx) / 2**0.5
    outside = distance(shape, across, down, radius)
    covered = (0.5 - outside).clamp(0, 1)
    if style == OUTLINED:
        covered = covered - (0.5 - outside - WALL).clamp(0, 1)
    elif style == STRIPED:
        # Stripes are counted from the center of the middle stripe, so that the outermost stripes are complete.
        stripe = (dy + STRIPE / 2).div(STRIPE, rounding_mode="floor")
        covered = covered * (stripe % 2 == 0)
    return covered


def mask(thing: Placed, style: str | None = None) -> Tensor:
    """Compute the share [32, 32] of each pixel that `thing` covers, in its own style or in `style`."""
    if thing.shape in INK:
        covered = torch.zeros(IMAGE_SIZE, IMAGE_SIZE)
        left, top = round(thing.x - WIDTH / 2), round(thing.y - HEIGHT / 2)
        covered[top : top + HEIGHT, left : left + WIDTH] = INK[thing.shape]
        return covered
    dx, dy = (AXIS - thing.x)[None, :], (AXIS - thing.y)[:, None]
    return cover(thing.shape, thing.pose, style or thing.style, torch.tensor(thing.radius), dx, dy)


def solid(thing: Placed) -> np.ndarray:
    """Return a mask [32, 32] of the pixels that `thing` covers by at least half."""
    return mask(thing).numpy() >= 0.5


def center_of_mass(mask: Tensor) -> tuple[float, float]:
    """Compute the center of mass (x, y) of a mask in pixels."""
    total = mask.sum()
    return float((mask.sum(0) * AXIS).sum() / total), float((mask.sum(1) * AXIS).sum() / total)


def draw(scenes: Sequence[Scene]) -> Tensor:
    """Draw scenes as images [N, 3, 32, 32] in [0, 1]."""
    images = torch.empty(len(scenes), 3, IMAGE_SIZE, IMAGE_SIZE)
    for image, scene in zip(images, scenes, strict=True):
        image[:] = BACKGROUND_PALETTE[BACKGROUNDS.index(scene.background)][:, None, None]
        for thing in scene.objects:
            image += mask(thing) * (PALETTE[COLORS.index(thing.color)][:, None, None] - image)
    return images


def ground_truth(scene: Scene) -> PerceivedImage:
    """Return what perception would find in the image of the scene if it made no errors."""
    covered = [solid(thing) for thing in scene.objects]
    objects = tuple(_observe(thing, index, covered) for index, thing in enumerate(scene.objects))
    return PerceivedImage(objects, scene.background)


def _observe(thing: Placed, index: int, covered: list[np.ndarray]) -> PerceivedObject:
    visible, hidden_by = covered[index], None
    for other in range(index + 1, len(covered)):
        if (covered[index] & covered[other]).sum() >= MIN_HIDDEN * covered[index].sum():
            hidden_by = other
        visible = visible & ~covered[other]
    x, y = (thing.x, thing.y) if thing.shape in INK else center_of_mass(mask(thing, SOLID))
    return PerceivedObject(thing.shape, thing.color, thing.radius, x, y, thing.style, thing.pose, visible, hidden_by)
