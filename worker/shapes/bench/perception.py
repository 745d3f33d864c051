"""What an image of the benchmark's world shows, read from its pixels: no weights, no caption."""

from collections.abc import Sequence

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor
from torch.nn import functional

from worker.shapes import IMAGE_SIZE
from worker.shapes.bench.hidden import Completed, complete
from worker.shapes.bench.regions import Region, regions
from worker.shapes.bench.seen import Seen, SeenImage
from worker.shapes.bench.templates import Fit, best_glyph, best_shapes, stripes_error
from worker.shapes.bench.words import OUTLINED, SOLID, STRIPED
from worker.shapes.grammar import BACKGROUNDS
from worker.shapes.perception import WORST_FIT, nearest_background, segment

WORST_STRIPES = 0.35
"""Largest squared difference to a striped shape, as a share of its area, that still counts as one."""
HOLLOW = 0.08
"""Least share of an outlined object that is a hole, with the background in it."""

_AROUND = ndimage.generate_binary_structure(2, 2)


def perceive(images: Tensor) -> list[SeenImage]:
    """What each of `images` [N, 3, H, W] in [0, 1] shows, independently of the others. Other sizes are resized."""
    if images.ndim != 4 or images.shape[1] != 3:
        raise ValueError(f"images must be [N, 3, H, W], not {list(images.shape)}")
    images = images.detach().to("cpu", torch.float32).clamp(0, 1)
    if images.shape[2:] != (IMAGE_SIZE, IMAGE_SIZE):
        images = functional.interpolate(images, (IMAGE_SIZE, IMAGE_SIZE), mode="area")
    background, sure = nearest_background(images)
    found = [regions(*one) for one in zip(*segment(images, background), strict=True)]
    # All regions of all images are compared with the shapes at once.
    fits = iter(best_shapes([region for both in found for part in both for region in part]))
    return [
        SeenImage(
            _objects(single, [next(fits) for _ in single], groups, [next(fits) for _ in groups]),
            BACKGROUNDS[index] if near else None,
        )
        for (single, groups), index, near in zip(found, background.tolist(), sure.tolist(), strict=True)
    ]


def _objects(
    single: Sequence[Region], fits: Sequence[Fit], groups: Sequence[Region], group_fits: Sequence[Fit]
) -> tuple[Seen, ...]:
    objects: list[Seen] = []
    used: set[int] = set()
    for group, fit in zip(groups, group_fits, strict=True):
        if fit.error <= WORST_FIT and stripes_error(group, fit) <= WORST_STRIPES:
            used.update(group.parts)
            objects.append(_seen(group, fit, STRIPED))
    rest = [place for place in range(len(single)) if place not in used]
    begin = len(objects)
    completed = complete([single[place] for place in rest], [fits[place] for place in rest])
    for place, whole in zip(rest, completed, strict=True):
        objects.append(_named(single[place], fits[place], whole, begin, single))
    return tuple(objects)


def _named(region: Region, fit: Fit, whole: Completed | None, begin: int, others: Sequence[Region]) -> Seen:
    sign = best_glyph(region)
    if sign and sign.error <= WORST_FIT and sign.error < fit.error:
        return _seen(region, sign, SOLID)
    if whole:
        return _seen(region, whole.fit, SOLID, begin + whole.front)
    hole = region.solid & ~region.own
    for other in others:
        if other is not region:
            hole &= ~ndimage.binary_dilation(other.own, _AROUND)
    hollow = hole.sum() >= HOLLOW * region.solid.sum()
    return _seen(region, fit, OUTLINED if hollow else SOLID)


def _seen(region: Region, fit: Fit, style: str, hidden_by: int | None = None) -> Seen:
    shape = fit.shape if fit.error <= WORST_FIT else None
    x, y = fit.centre
    return Seen(shape, region.colour, style, fit.pose, fit.radius, x, y, np.asarray(region.own), hidden_by)
