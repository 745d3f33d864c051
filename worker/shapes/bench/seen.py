"""What an image shows, whoever saw it: the judge in the pixels, or the generator, which knows the truth."""

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from worker.shapes.render import RADIUS_LIMIT

Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class Seen:
    """An object in an image."""

    shape: str | None
    """One of SHAPES or GLYPHS; None: like none of them."""
    colour: str
    style: str
    pose: str
    radius: float
    x: float
    """Of its centre, pixels from the left."""
    y: float
    """Pixels from the top."""
    mask: Mask = field(repr=False, compare=False)
    """[32, 32] the pixels of it that can be seen."""
    hidden_by: int | None = None
    """The object, by its number in the image, that covers a part of this one."""

    @property
    def size(self) -> str:
        return "large" if self.radius >= RADIUS_LIMIT else "small"


@dataclass(frozen=True)
class SeenImage:
    objects: tuple[Seen, ...]
    background: str | None  # None: like none of the backgrounds


def distance(one: Seen, other: Seen) -> float:
    """Between the nearest pixels of two objects: 1 where they are next to each other."""
    return float(ndimage.distance_transform_edt(~one.mask)[other.mask].min(initial=np.inf))


def share_inside(inner: Seen, outer: Seen) -> float:
    """Share of the inner object's pixels that the outer one encloses."""
    enclosed = ndimage.binary_fill_holes(outer.mask) & ~outer.mask
    return float((inner.mask & enclosed).sum() / max(1, inner.mask.sum()))
