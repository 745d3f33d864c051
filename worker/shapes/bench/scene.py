"""Scenes of placed objects: how they are drawn, and what is seen in them in truth."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from worker.shapes import IMAGE_SIZE
from worker.shapes.bench.glyphs import GLYPHS, HEIGHT, WIDTH
from worker.shapes.bench.seen import Seen, SeenImage
from worker.shapes.bench.words import OUTLINED, SOLID, STRIPED, TILTED, UPRIGHT
from worker.shapes.grammar import BACKGROUNDS, COLOURS
from worker.shapes.render import ARM, BACKGROUND_PALETTE, HALF_BASE, HALF_DIAGONAL, HALF_SIDE, PALETTE, distance

WALL = 2.5
"""Thickness in pixels of an outline."""
STRIPE = 3
"""Height in pixels of a stripe, and of the gap to the next; thinner ones do not survive the autoencoder."""
STRIPED_HEIGHT = 5 * STRIPE
"""Of every striped object: three stripes and two gaps."""
HIDDEN = 0.12
"""Least share of an object that another one covers for it to be behind that one."""
_TILTED_ARM = 0.997
_HALF_EXTENT = {
    "circle": (1.0, 1.0),
    "square": (HALF_SIDE, HALF_SIDE),
    "triangle": (HALF_BASE, 1.0),
    "diamond": (HALF_DIAGONAL, HALF_DIAGONAL),
    "cross": (ARM, ARM),
}
_AXIS = torch.arange(IMAGE_SIZE) + 0.5


@dataclass(frozen=True)
class Placed:
    """An object at its place."""

    shape: str
    colour: str
    radius: float
    x: float = 0.0
    """Of the middle of its bounding box, pixels from the left."""
    y: float = 0.0
    """Pixels from the top."""
    style: str = SOLID
    pose: str = UPRIGHT

    @property
    def half(self) -> tuple[float, float]:
        """Half width and half height in pixels."""
        return half_extent(self.shape, self.pose, self.radius)


@dataclass(frozen=True)
class Scene:
    objects: tuple[Placed, ...]
    """From back to front."""
    background: str


def half_extent(shape: str, pose: str, radius: float) -> tuple[float, float]:
    """Half width and half height in pixels."""
    if shape in GLYPHS:
        return WIDTH / 2, HEIGHT / 2
    if pose == TILTED:
        return _TILTED_ARM * radius, _TILTED_ARM * radius
    across, down = _HALF_EXTENT[shape]
    return (down * radius, across * radius) if pose in ("left", "right") else (across * radius, down * radius)


def striped_radius(shape: str, pose: str) -> float:
    """The radius at which a striped object has its height."""
    return STRIPED_HEIGHT / 2 / half_extent(shape, pose, 1.0)[1]


def cover(shape: str, pose: str, style: str, radius: Tensor, dx: Tensor, dy: Tensor) -> Tensor:
    """Share in [0, 1] of each pixel that an object covers; `dx`, `dy` are pixel centres seen from its middle."""
    across, down = dx, dy
    if pose == "down":
        across, down = dx, -dy
    elif pose in ("left", "right"):
        across, down = dy, dx if pose == "left" else -dx
    elif pose == TILTED:
        across, down = (dx + dy) / 2**0.5, (dy - dx) / 2**0.5
    away = distance(shape, across, down, radius)
    covered = (0.5 - away).clamp(0, 1)
    if style == OUTLINED:
        covered = covered - (0.5 - away - WALL).clamp(0, 1)
    elif style == STRIPED:
        # From the middle of the middle stripe on, so that the outermost ones are whole.
        from_middle = (dy + STRIPE / 2).div(STRIPE, rounding_mode="floor")
        covered = covered * (from_middle % 2 == 0)
    return covered


def mask(thing: Placed, style: str | None = None) -> Tensor:
    """Share [32, 32] of each pixel that `thing` covers, in its own style or another one."""
    if thing.shape in GLYPHS:
        covered = torch.zeros(IMAGE_SIZE, IMAGE_SIZE)
        left, top = round(thing.x - WIDTH / 2), round(thing.y - HEIGHT / 2)
        covered[top : top + HEIGHT, left : left + WIDTH] = GLYPHS[thing.shape]
        return covered
    dx, dy = (_AXIS - thing.x)[None, :], (_AXIS - thing.y)[:, None]
    return cover(thing.shape, thing.pose, style or thing.style, torch.tensor(thing.radius), dx, dy)


def draw(scenes: Sequence[Scene]) -> Tensor:
    """Images [N, 3, 32, 32] in [0, 1]."""
    images = torch.empty(len(scenes), 3, IMAGE_SIZE, IMAGE_SIZE)
    for image, scene in zip(images, scenes, strict=True):
        image[:] = BACKGROUND_PALETTE[BACKGROUNDS.index(scene.background)][:, None, None]
        for thing in scene.objects:
            image += mask(thing) * (PALETTE[COLOURS.index(thing.colour)][:, None, None] - image)
    return images


def look(scene: Scene) -> SeenImage:
    """What the scene shows, in truth."""
    covered = [mask(thing).numpy() >= 0.5 for thing in scene.objects]
    return SeenImage(
        tuple(_look_at(thing, place, covered) for place, thing in enumerate(scene.objects)), scene.background
    )


def _look_at(thing: Placed, place: int, covered: list[np.ndarray]) -> Seen:
    visible, hidden_by = covered[place], None
    for other in range(place + 1, len(covered)):
        if (covered[place] & covered[other]).sum() >= HIDDEN * covered[place].sum():
            hidden_by = other
        visible = visible & ~covered[other]
    x, y = thing.x, thing.y
    if thing.shape not in GLYPHS:
        whole = mask(thing, SOLID)
        x = float((whole.sum(0) * _AXIS).sum() / whole.sum())
        y = float((whole.sum(1) * _AXIS).sum() / whole.sum())
    return Seen(thing.shape, thing.colour, thing.style, thing.pose, thing.radius, x, y, visible, hidden_by)
