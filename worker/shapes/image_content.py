"""The content of an image, as perceived from its pixels or as known to the generator."""

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from worker.shapes.render import RADIUS_LIMIT
from worker.shapes.words import SOLID, UPRIGHT

Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class PerceivedObject:
    """An object in an image. Perception of the basic world does not set the fields that have defaults."""

    shape: str | None
    """One of SHAPES or GLYPHS, or None if the object resembles none of them."""
    color: str
    radius: float
    x: float
    """Distance from the left edge of the image to the object's center, in pixels."""
    y: float
    """Distance from the top edge of the image to the object's center, in pixels."""
    style: str = SOLID
    pose: str = UPRIGHT
    mask: Mask = field(default_factory=lambda: np.zeros((0, 0), dtype=bool), repr=False, compare=False)
    """The object's visible pixels, [32, 32]."""
    hidden_by: int | None = None
    """Index of the object that partly hides this one, or None if it is not hidden."""

    @property
    def size(self) -> str:
        return "large" if self.radius >= RADIUS_LIMIT else "small"


@dataclass(frozen=True)
class PerceivedImage:
    objects: tuple[PerceivedObject, ...]
    background: str | None
    """Name of the background, or None if the border resembles none of them."""
