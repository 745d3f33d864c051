"""Objects that another one partly hides: the shape is found whose visible part is what can be seen."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import product

import numpy as np
import torch
from scipy import ndimage

from worker.shapes.bench.regions import Region
from worker.shapes.bench.scene import HIDDEN, half_extent
from worker.shapes.bench.seen import Mask
from worker.shapes.bench.templates import Fit, draw_form
from worker.shapes.bench.words import SOLID, UP, UPRIGHT

FORMS = (("circle", UPRIGHT), ("square", UPRIGHT), ("triangle", UP), ("diamond", UPRIGHT))
RADII = tuple(np.arange(4.0, 9.01, 0.25).tolist())
"""Tried for the whole object, pixels."""
JITTER = (-0.35, 0.0, 0.35)
"""Of its edges from those of the visible part, pixels."""
WHOLE = 0.07
"""A region that differs by less from a shape is not taken to be a part of another one."""
WORST = 0.12
"""Largest squared difference of the visible part to a shape's, as a share of its area."""
BETTER = 0.6
"""How much better than as a whole it must fit as a part: largest ratio of the differences."""

_AROUND = ndimage.generate_binary_structure(2, 2)


@dataclass(frozen=True)
class Completed:
    fit: Fit
    front: int
    """Which of the regions hides it."""


def complete(regions: Sequence[Region], fits: Sequence[Fit]) -> list[Completed | None]:
    """For each region: the whole object, if it is a part of one that another region hides."""
    found = [_complete(place, regions, fit) for place, fit in enumerate(fits)]
    for place, one in enumerate(found):
        # Of two that would hide each other, the one that is more like a whole object is in front.
        if one and found[one.front] and fits[place].error < fits[one.front].error:
            found[place] = None
    return found


def _complete(place: int, regions: Sequence[Region], fit: Fit) -> Completed | None:
    region = regions[place]
    if fit.error < WHOLE:
        return None
    near = ndimage.binary_dilation(region.own, _AROUND, iterations=2)
    fronts = [other for other in range(len(regions)) if other != place and (regions[other].own & near).any()]
    found = [_behind(region, regions[front].solid, front) for front in fronts]
    best = min((one for one in found if one), key=lambda one: one.fit.error, default=None)
    return best if best and best.fit.error <= min(WORST, BETTER * fit.error) else None


def _behind(region: Region, front: Mask, number: int) -> Completed | None:
    """The shape of which `front` hides enough and whose rest is most like the region."""
    seen = torch.from_numpy(region.filled)
    covering = torch.from_numpy(front)
    # Around the covering object pixels are mixed of three colours: they tell nothing.
    known = torch.from_numpy(~ndimage.binary_dilation(front, _AROUND)).float()
    rows, columns = (np.flatnonzero(region.own.any(axis=axis)) for axis in (1, 0))
    edges = [float(columns[0]), float(columns[-1] + 1), float(rows[0]), float(rows[-1] + 1)]
    best: Completed | None = None
    for shape, pose in FORMS:
        radius, x, y = _candidates(shape, edges)
        masks = draw_form(shape, pose, SOLID, radius, torch.stack([x, y], dim=1))
        area = masks.sum(dim=(1, 2))
        errors = ((seen - masks).square() * known).sum(dim=(1, 2)) / (masks * known).sum(dim=(1, 2)).clamp(min=1)
        hidden = (masks * covering).sum(dim=(1, 2)) / area
        errors = torch.where(hidden >= HIDDEN, errors, torch.inf)
        row = int(errors.argmin())
        error = float(errors[row])
        if best is None or error < best.fit.error:
            middle = (float(x[row]), float(y[row]))
            whole = Fit(error, shape, pose, float(radius[row]), middle, middle)
            best = Completed(replace(whole, centre=_centre(masks[row])), number)
    return best


def _candidates(shape: str, edges: list[float]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Radii and middles of which two edges, one across and one down, are where the visible part ends."""
    left, right, top, bottom = edges
    found = []
    for radius in RADII:
        across, down = half_extent(shape, UPRIGHT, radius)
        for shift_x, shift_y in product(JITTER, JITTER):
            for x, y in product((left + across, right - across), (top + down, bottom - down)):
                found.append((radius, x + shift_x, y + shift_y))
    radius, x, y = torch.tensor(found).T
    return radius, x, y


def _centre(mask: torch.Tensor) -> tuple[float, float]:
    axis = torch.arange(len(mask)) + 0.5
    total = mask.sum()
    return float((mask.sum(0) * axis).sum() / total), float((mask.sum(1) * axis).sum() / total)
