"""Fitting of shapes and signs to regions by comparing masks, including regions that are partly hidden by others."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import product

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor
from torch.nn import functional

from worker.shapes import IMAGE_SIZE
from worker.shapes.bench.regions import NEIGHBORS, Region
from worker.shapes.bench.scene import AXIS, HEIGHT, INK, MIN_HIDDEN, WIDTH, center_of_mass, cover, half_extent
from worker.shapes.image_content import Mask
from worker.shapes.perception import SCALES
from worker.shapes.render import AREA, CENTROID_BELOW_MIDDLE
from worker.shapes.words import POINTING, SHAPES, SOLID, STRIPED, TILTED, UP, UPRIGHT

FORMS = (
    *((shape, UPRIGHT) for shape in SHAPES if shape != "triangle"),
    *(("triangle", direction) for direction in POINTING),
    ("cross", TILTED),
)
"""All shapes and poses that are compared with regions."""
HIDDEN_FORMS = (("circle", UPRIGHT), ("square", UPRIGHT), ("triangle", UP), ("diamond", UPRIGHT))
"""Shapes that are recognizable when a part is hidden."""
_DROP = float(CENTROID_BELOW_MIDDLE[SHAPES.index("triangle")])
_OFFSET = {"up": (0.0, _DROP), "down": (0.0, -_DROP), "left": (_DROP, 0.0), "right": (-_DROP, 0.0)}
"""Offset (x, y) from the center of a triangle's bounding box to its center of mass by pose, at radius 1."""
_SHIFTS = torch.tensor([-0.75, -0.5, -0.25, 0.0, 0.25, 0.5, 0.75])
"""Candidate offsets of stripes in pixels."""
RADII = tuple(np.arange(4.0, 9.01, 0.25).tolist())
"""Candidate radii of a partly hidden object in pixels."""
JITTER = (-0.35, 0.0, 0.35)
"""Candidate offsets, in pixels, between the edges of a partly hidden object and those of its visible part."""
MAX_WHOLE = 0.07
"""Error below which a region is considered a whole object rather than the visible part of a hidden object."""
MAX_PART = 0.12
"""Maximum squared difference between a visible part and that of a shape, as a share of its area."""
IMPROVEMENT = 0.6
"""Maximum ratio of a region's error as a visible part to its error as a whole object."""


@dataclass(frozen=True)
class Fit:
    """The best fit for a region: its shape, position, and error as a share of the region's area."""

    error: float
    shape: str
    pose: str
    radius: float
    middle: tuple[float, float]
    """Center of the bounding box."""
    center: tuple[float, float]
    """Center of mass."""
    hidden_by: int | None = None
    """Index of the region that partly hides the object, or None if it is not hidden."""


def best_shapes(regions: list[Region]) -> list[Fit]:
    """Find the best-fitting shape for each region, with its holes filled."""
    if not regions:
        return []
    seen = torch.from_numpy(np.stack([region.filled for region in regions]))
    solid = torch.from_numpy(np.stack([region.solid for region in regions])).float()
    area = solid.sum(dim=(1, 2))
    x = (solid.sum(1) * AXIS).sum(1) / area
    y = (solid.sum(2) * AXIS).sum(1) / area
    errors, positions = [], []
    for shape, pose in FORMS:
        right, down = _OFFSET.get(pose, (0.0, 0.0))
        for scale in SCALES:
            radius = scale * (area / AREA[SHAPES.index(shape)]).sqrt()
            middle = torch.stack([x - right * radius, y - down * radius], dim=1)
            sharp = _masks(shape, pose, SOLID, radius, middle)
            for mask in (sharp, _blurred(sharp)):
                errors.append((seen - mask).square().sum(dim=(1, 2)) / area)
                positions.append(torch.cat([radius[:, None], middle], dim=1))
    best = torch.stack(errors).min(dim=0)
    found = []
    for row, (error, index) in enumerate(zip(best.values.tolist(), best.indices.tolist(), strict=True)):
        shape, pose = FORMS[index // (len(errors) // len(FORMS))]
        size, left, top = positions[index][row].tolist()
        found.append(Fit(error, shape, pose, size, (left, top), (float(x[row]), float(y[row]))))
    return found


def _masks(shape: str, pose: str, style: str, radius: Tensor, middle: Tensor) -> Tensor:
    """Compute masks [K, 32, 32] of one shape and pose with radii [K] and centers [K, 2]."""
    dx = AXIS[None, None, :] - middle[:, 0, None, None]
    dy = AXIS[None, :, None] - middle[:, 1, None, None]
    return cover(shape, pose, style, radius[:, None, None], dx, dy)


def _blurred(masks: Tensor) -> Tensor:
    """Blur masks [K, 32, 32] slightly, as an autoencoder does."""
    kernel = torch.tensor([1.0, 2.0, 1.0]) / 4
    return functional.conv2d(masks[:, None], torch.outer(kernel, kernel)[None, None], padding=1)[:, 0]


def stripes_error(region: Region, fit: Fit) -> float:
    """Compute the error of the striped version of the fitted shape, as a share of the region's area."""
    top, bottom, _, _ = region.extent
    # The center of the middle stripe is the center of the whole shape.
    middle = (float(top) + float(bottom) + 1) / 2
    positions = torch.stack([torch.full_like(_SHIFTS, fit.middle[0]), middle + _SHIFTS], dim=1)
    sharp = _masks(fit.shape, fit.pose, STRIPED, torch.full_like(_SHIFTS, fit.radius), positions)
    masks = torch.cat([sharp, _blurred(sharp)])
    return float((torch.from_numpy(region.shares) - masks).square().sum(dim=(1, 2)).min() / region.own.sum())


def best_glyph(region: Region) -> Fit | None:
    """Find the best-fitting sign, or return None if the region's height or width differs too much from a sign's."""
    top, bottom, left, right = region.extent
    extra_height, extra_width = bottom - top + 1 - HEIGHT, right - left + 1 - WIDTH
    if abs(extra_height) > 2 or abs(extra_width) > 2:
        return None
    corners = [
        (at_top, at_left)
        for at_top in range(top + extra_height // 2 - 1, top + extra_height // 2 + 2)
        for at_left in range(left + extra_width // 2 - 1, left + extra_width // 2 + 2)
        if 0 <= at_top <= IMAGE_SIZE - HEIGHT and 0 <= at_left <= IMAGE_SIZE - WIDTH
    ]
    seen = torch.from_numpy(region.shares)
    best: Fit | None = None
    for sign, ink in INK.items() if corners else ():
        sharp = torch.zeros(len(corners), IMAGE_SIZE, IMAGE_SIZE)
        for mask, (at_top, at_left) in zip(sharp, corners, strict=True):
            mask[at_top : at_top + HEIGHT, at_left : at_left + WIDTH] = ink
        errors = (seen - torch.cat([sharp, _blurred(sharp)])).square().sum(dim=(1, 2)) / ink.sum()
        index = int(errors.argmin())
        if best is None or float(errors[index]) < best.error:
            at_top, at_left = corners[index % len(corners)]
            middle = (at_left + WIDTH / 2, at_top + HEIGHT / 2)
            best = Fit(float(errors[index]), sign, UPRIGHT, HEIGHT / 2, middle, middle)
    return best


def complete(regions: Sequence[Region], fits: Sequence[Fit]) -> list[Fit | None]:
    """Return the whole object for each region that is the visible part of a hidden object, and None for the others."""
    found = [_complete(index, regions, fit) for index, fit in enumerate(fits)]
    for index, one in enumerate(found):
        # If two objects would hide each other, the better fit as a whole object is in front.
        front = one.hidden_by if one else None
        if front is not None and found[front] and fits[index].error < fits[front].error:
            found[index] = None
    return found


def _complete(index: int, regions: Sequence[Region], fit: Fit) -> Fit | None:
    region = regions[index]
    if fit.error < MAX_WHOLE:
        return None
    near = ndimage.binary_dilation(region.own, NEIGHBORS, iterations=2)
    fronts = [other for other in range(len(regions)) if other != index and (regions[other].own & near).any()]
    found = [replace(_hidden_shape(region, regions[front].solid), hidden_by=front) for front in fronts]
    best = min(found, key=lambda one: one.error, default=None)
    return best if best and best.error <= min(MAX_PART, IMPROVEMENT * fit.error) else None


def _hidden_shape(region: Region, front: Mask) -> Fit:
    """Find the shape whose visible part is most similar to the region.

    `front` must hide at least MIN_HIDDEN of the shape.
    """
    seen = torch.from_numpy(region.filled)
    covering = torch.from_numpy(front)
    # The pixels around the covering object are mixtures of three colors and carry no information.
    known = torch.from_numpy(~ndimage.binary_dilation(front, NEIGHBORS)).float()
    found = []
    for shape, pose in HIDDEN_FORMS:
        radius, x, y = _candidates(shape, region)
        masks = _masks(shape, pose, SOLID, radius, torch.stack([x, y], dim=1))
        errors = ((seen - masks).square() * known).sum(dim=(1, 2)) / (masks * known).sum(dim=(1, 2)).clamp(min=1)
        hidden = (masks * covering).sum(dim=(1, 2)) / masks.sum(dim=(1, 2))
        errors = torch.where(hidden >= MIN_HIDDEN, errors, torch.inf)
        row = int(errors.argmin())
        middle = (float(x[row]), float(y[row]))
        found.append(Fit(float(errors[row]), shape, pose, float(radius[row]), middle, center_of_mass(masks[row])))
    return min(found, key=lambda one: one.error)


def _candidates(shape: str, region: Region) -> Tensor:
    """Return candidate radii and centers [3, K] for the whole object.

    One vertical and one horizontal edge of each candidate's bounding box match the region's edges within JITTER.
    """
    top, bottom, left, right = region.extent
    found = []
    for radius in RADII:
        across, down = half_extent(shape, UPRIGHT, radius)
        for shift_x, shift_y in product(JITTER, JITTER):
            for x, y in product((left + across, right + 1 - across), (top + down, bottom + 1 - down)):
                found.append((radius, x + shift_x, y + shift_y))
    return torch.tensor(found).T
