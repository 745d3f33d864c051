"""Perception for the benchmark's world: detects objects from pixels, without weights or captions."""

from collections.abc import Sequence

import numpy as np
from scipy import ndimage
from torch import Tensor

from worker.shapes.bench.regions import NEIGHBORS, Region, regions
from worker.shapes.bench.shape_fitting import Fit, best_glyph, best_shapes, complete, stripes_error
from worker.shapes.image_content import PerceivedImage, PerceivedObject
from worker.shapes.perception import MAX_MISFIT, nearest_background, normalize, segment
from worker.shapes.words import OUTLINED, SOLID, STRIPED

MAX_STRIPES_MISFIT = 0.35
"""Maximum squared difference between a region and a striped shape, as a share of the region's area."""
HOLLOW = 0.08
"""Minimum share of an outlined object that must be a hole showing the background."""


def perceive(images: Tensor) -> list[PerceivedImage]:
    """Detect the background and objects in each of `images` [N, 3, H, W] in [0, 1].

    Each result is independent of the other images. Images of any size other than 32×32 are resized.
    """
    images = normalize(images)
    background, names = nearest_background(images)
    found = [regions(*one) for one in zip(*segment(images, background), strict=True)]
    # The regions of all images are compared with the shapes in one batch.
    fits = iter(best_shapes([region for both in found for part in both for region in part]))
    return [
        PerceivedImage(_objects(single, [next(fits) for _ in single], groups, [next(fits) for _ in groups]), name)
        for (single, groups), name in zip(found, names, strict=True)
    ]


def _objects(
    single: Sequence[Region], fits: Sequence[Fit], groups: Sequence[Region], group_fits: Sequence[Fit]
) -> tuple[PerceivedObject, ...]:
    objects: list[PerceivedObject] = []
    used: set[int] = set()
    for group, fit in zip(groups, group_fits, strict=True):
        if fit.error <= MAX_MISFIT and stripes_error(group, fit) <= MAX_STRIPES_MISFIT:
            used.update(group.parts)
            objects.append(_seen(group, fit, STRIPED))
    rest = [index for index in range(len(single)) if index not in used]
    first = len(objects)
    completed = complete([single[index] for index in rest], [fits[index] for index in rest])
    for index, whole in zip(rest, completed, strict=True):
        objects.append(_recognize(single[index], fits[index], whole, first, single))
    return tuple(objects)


def _recognize(region: Region, fit: Fit, whole: Fit | None, first: int, others: Sequence[Region]) -> PerceivedObject:
    sign = best_glyph(region)
    if sign and sign.error <= MAX_MISFIT and sign.error < fit.error:
        return _seen(region, sign, SOLID)
    if whole and whole.hidden_by is not None:
        return _seen(region, whole, SOLID, first + whole.hidden_by)
    hole = region.solid & ~region.own
    for other in others:
        if other is not region:
            hole &= ~ndimage.binary_dilation(other.own, NEIGHBORS)
    hollow = hole.sum() >= HOLLOW * region.solid.sum()
    return _seen(region, fit, OUTLINED if hollow else SOLID)


def _seen(region: Region, fit: Fit, style: str, hidden_by: int | None = None) -> PerceivedObject:
    shape = fit.shape if fit.error <= MAX_MISFIT else None
    return PerceivedObject(
        shape, region.color, fit.radius, *fit.center, style, fit.pose, np.asarray(region.own), hidden_by
    )
