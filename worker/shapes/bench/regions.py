"""The regions of one colour in images: what objects are looked for in."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor

from worker.shapes.bench.scene import STRIPE
from worker.shapes.bench.seen import Mask
from worker.shapes.grammar import COLOURS
from worker.shapes.perception import LEAST_AREA

Floats = NDArray[np.float32]
Labels = NDArray[np.int32]

SEAM = 0.2
"""A thin region with this share of its outline along each of two others is only the mixed pixels between them."""

_AROUND = ndimage.generate_binary_structure(2, 2)
_BESIDE = ndimage.generate_binary_structure(2, 1)


@dataclass(frozen=True)
class Region:
    """Pixels of one colour that hang together; or, of stripes, those of all of them."""

    colour: str
    own: Mask
    """[32, 32]"""
    solid: Mask
    """[32, 32] its own pixels with holes, and with the gaps between stripes, filled."""
    shares: Floats
    """[32, 32] how much of each pixel it covers: of its own ones, and of half covered ones next to them."""
    parts: tuple[int, ...] = ()
    """Of stripes: the regions that they are, by their places in the list of regions."""

    @property
    def filled(self) -> Floats:
        """[32, 32] how much of each pixel it would cover without holes or gaps."""
        return np.where(self.solid & ~self.own, np.float32(1), self.shares)


def regions(share: Tensor, colour: Tensor) -> tuple[list[Region], list[Region]]:
    """The regions of one image, and the groups of them that may be the stripes of one object.

    share [32, 32] of each pixel's colour over the background, colour [32, 32] as an index into COLOURS.
    """
    shares, colours = share.numpy(), colour.numpy()
    covered = shares >= 0.5
    found: list[Region] = []
    groups: list[Region] = []
    for index in np.unique(colours[covered]):
        plane = covered & (colours == index)
        begin = len(found)
        labels, count = ndimage.label(plane, _BESIDE)
        for label in range(1, count + 1):
            own = labels == label
            if own.sum() >= LEAST_AREA and ndimage.binary_erosion(own, np.ones((2, 2))).any():
                found.append(_region(COLOURS[index], own, ndimage.binary_fill_holes(own), shares, covered))
        joined = _close(plane)
        labels, count = ndimage.label(joined, _BESIDE)
        for label in range(1, count + 1):
            whole = labels == label
            own = plane & whole
            parts = tuple(place for place in range(begin, len(found)) if (found[place].own & whole).any())
            if own.sum() >= LEAST_AREA and ndimage.label(own, _BESIDE)[1] > 1:
                groups.append(_region(COLOURS[index], own, whole, shares, covered, parts))
    return _without_seams(found, groups)


def _region(colour: str, own: Mask, solid: Mask, shares: Floats, covered: Mask, parts: tuple[int, ...] = ()) -> Region:
    # The half covered pixels of its outline lie next to its own ones; further away there is only noise.
    rim = ndimage.binary_dilation(own, _AROUND) & ~covered
    return Region(colour, own, solid, np.where(own | rim, shares, np.float32(0)), parts)


def _close(plane: Mask) -> Mask:
    """The plane with gaps filled that are as high as those between stripes."""
    tall = np.ones((STRIPE + 1, 1), dtype=bool)
    padded = np.pad(plane, ((STRIPE + 1, STRIPE + 1), (0, 0)))
    closed: Mask = ndimage.binary_closing(padded, tall)[STRIPE + 1 : -STRIPE - 1]
    return closed


def _without_seams(found: list[Region], groups: list[Region]) -> tuple[list[Region], list[Region]]:
    """Leaves out the thin regions where two colours meet and mix to a third."""
    kept = [place for place, region in enumerate(found) if not _is_seam(region, found)]
    renumbered = {old: new for new, old in enumerate(kept)}
    left = []
    for group in groups:
        parts = tuple(renumbered[part] for part in group.parts if part in renumbered)
        left.append(Region(group.colour, group.own, group.solid, group.shares, parts))
    return [found[place] for place in kept], left


def _is_seam(region: Region, found: list[Region]) -> bool:
    if ndimage.distance_transform_edt(region.own).max() > 2:
        return False
    outline = ndimage.binary_dilation(region.own, _BESIDE) & ~region.own
    larger = [other.own for other in found if other is not region and other.own.sum() > region.own.sum()]
    return sum(bool((outline & own).sum() >= SEAM * outline.sum()) for own in larger) >= 2
