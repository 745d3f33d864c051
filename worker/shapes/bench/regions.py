"""Connected regions of one color in an image, which are candidates for objects."""

from dataclasses import dataclass, replace

import numpy as np
from scipy import ndimage
from torch import Tensor

from worker.shapes.bench.scene import STRIPE
from worker.shapes.image_content import Mask
from worker.shapes.perception import MIN_AREA, Floats
from worker.shapes.words import COLORS

SEAM = 0.2
"""Minimum share of a seam's outline that runs along each of two larger regions.

A seam is a thin region that consists of pixels in which the colors of the two larger regions mix.
"""

NEIGHBORS = ndimage.generate_binary_structure(2, 2)
"""A pixel and its eight neighbors."""
_ADJACENT = ndimage.generate_binary_structure(2, 1)


@dataclass(frozen=True)
class Region:
    """Connected pixels of one color, or the pixels of several stripes together."""

    color: str
    own: Mask
    """The region's pixels, [32, 32]."""
    solid: Mask
    """The region's pixels with holes and gaps between stripes filled, [32, 32]."""
    shares: Floats
    """Covered shares of the region's pixels and of adjacent partly covered pixels, [32, 32]."""
    parts: tuple[int, ...] = ()
    """Indices of the regions that form the stripes."""

    @property
    def filled(self) -> Floats:
        """Share of each pixel that the region would cover if it had no holes or gaps, [32, 32]."""
        return np.where(self.solid & ~self.own, np.float32(1), self.shares)

    @property
    def extent(self) -> tuple[int, int, int, int]:
        """First row, last row, first column and last column of the region."""
        rows, columns = (np.flatnonzero(self.own.any(axis=axis)) for axis in (1, 0))
        return int(rows[0]), int(rows[-1]), int(columns[0]), int(columns[-1])


def regions(share: Tensor, color: Tensor) -> tuple[list[Region], list[Region]]:
    """Find the regions of one image and the groups of regions that may be the stripes of one object.

    share: [32, 32] share of each pixel that its color covers. color: [32, 32] indices into COLORS.
    """
    shares, colors = share.numpy(), color.numpy()
    covered = shares >= 0.5
    found: list[Region] = []
    groups: list[Region] = []

    def region(index: int, own: Mask, solid: Mask, parts: tuple[int, ...] = ()) -> Region:
        # The partly covered pixels of the outline are adjacent to the region; pixels farther away are only noise.
        rim = ndimage.binary_dilation(own, NEIGHBORS) & ~covered
        return Region(COLORS[index], own, solid, np.where(own | rim, shares, np.float32(0)), parts)

    for index in np.unique(colors[covered]):
        plane = covered & (colors == index)
        first = len(found)
        for own in _components(plane):
            if own.sum() >= MIN_AREA and ndimage.binary_erosion(own, np.ones((2, 2))).any():
                found.append(region(index, own, ndimage.binary_fill_holes(own)))
        for whole in _components(_close(plane)):
            own = plane & whole
            parts = tuple(number for number in range(first, len(found)) if (found[number].own & whole).any())
            if own.sum() >= MIN_AREA and ndimage.label(own, _ADJACENT)[1] > 1:
                groups.append(region(index, own, whole, parts))
    return _without_seams(found, groups)


def _components(plane: Mask) -> list[Mask]:
    labels, count = ndimage.label(plane, _ADJACENT)
    return [labels == label for label in range(1, count + 1)]


def _close(plane: Mask) -> Mask:
    """Fill vertical gaps in a plane that are no higher than the gaps between stripes."""
    tall = np.ones((STRIPE + 1, 1), dtype=bool)
    padded = np.pad(plane, ((STRIPE + 1, STRIPE + 1), (0, 0)))
    closed: Mask = ndimage.binary_closing(padded, tall)[STRIPE + 1 : -STRIPE - 1]
    return closed


def _without_seams(found: list[Region], groups: list[Region]) -> tuple[list[Region], list[Region]]:
    """Remove the thin regions where two colors meet and mix into a third color."""
    real = [number for number, region in enumerate(found) if not _is_seam(region, found)]
    renumbered = {old: new for new, old in enumerate(real)}
    groups = [replace(one, parts=tuple(renumbered[part] for part in one.parts if part in renumbered)) for one in groups]
    return [found[number] for number in real], groups


def _is_seam(region: Region, found: list[Region]) -> bool:
    if ndimage.distance_transform_edt(region.own).max() > 2:
        return False
    outline = ndimage.binary_dilation(region.own, _ADJACENT) & ~region.own
    larger = [other.own for other in found if other is not region and other.own.sum() > region.own.sum()]
    return sum(bool((outline & own).sum() >= SEAM * outline.sum()) for own in larger) >= 2
