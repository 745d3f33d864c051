"""What an image shows, as perceived from its pixels or as known by the generator."""

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from worker.shapes.render import RADIUS_LIMIT
from worker.shapes.words import SOLID, UPRIGHT

Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class Seen:
    """An object in an image. Perception of the basic world leaves the fields with defaults as they are."""

    shape: str | None
    """One of SHAPES or GLYPHS; None if it resembles none of them."""
    color: str
    radius: float
    x: float
    """Of its center, in pixels from the left edge."""
    y: float
    """In pixels from the top edge."""
    style: str = SOLID
    pose: str = UPRIGHT
    mask: Mask = field(default_factory=lambda: np.zeros((0, 0), dtype=bool), repr=False, compare=False)
    """[32, 32] its visible pixels."""
    hidden_by: int | None = None
    """Index in the image of the object that covers a part of it."""

    @property
    def size(self) -> str:
        return "large" if self.radius >= RADIUS_LIMIT else "small"


@dataclass(frozen=True)
class SeenImage:
    objects: tuple[Seen, ...]
    background: str | None
    """None if the border resembles none of the backgrounds."""
