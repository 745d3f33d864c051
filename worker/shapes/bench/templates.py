"""How well shapes and signs fit regions: each is drawn in the region's place and compared."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from worker.shapes import IMAGE_SIZE
from worker.shapes.bench.glyphs import GLYPHS, HEIGHT, WIDTH
from worker.shapes.bench.regions import Region
from worker.shapes.bench.scene import cover
from worker.shapes.bench.words import POINTING, SOLID, STRIPED, TILTED, UPRIGHT
from worker.shapes.grammar import SHAPES
from worker.shapes.perception import SCALES
from worker.shapes.render import AREA, CENTROID_BELOW_MIDDLE

FORMS = (
    *((shape, UPRIGHT) for shape in SHAPES if shape != "triangle"),
    *(("triangle", way) for way in POINTING),
    ("cross", TILTED),
)
"""Shapes with their poses."""
_AXIS = torch.arange(IMAGE_SIZE) + 0.5
_DROP = float(CENTROID_BELOW_MIDDLE[SHAPES.index("triangle")])
_OFFSET = {"up": (0.0, _DROP), "down": (0.0, -_DROP), "left": (_DROP, 0.0), "right": (-_DROP, 0.0)}
"""Of a pointing triangle's centre of mass from the middle of its bounding box, at radius 1."""


@dataclass(frozen=True)
class Fit:
    """The best of the candidates: how it differs, as a share of the region's area, and where it was drawn."""

    error: float
    shape: str
    pose: str
    radius: float
    middle: tuple[float, float]
    centre: tuple[float, float]


def best_shapes(regions: list[Region]) -> list[Fit]:
    """The shape that fits each region without its holes best."""
    if not regions:
        return []
    seen = torch.from_numpy(np.stack([region.filled for region in regions]))
    solid = torch.from_numpy(np.stack([region.solid for region in regions])).float()
    area = solid.sum(dim=(1, 2))
    x = (solid.sum(1) * _AXIS).sum(1) / area
    y = (solid.sum(2) * _AXIS).sum(1) / area
    errors, places = [], []
    for shape, pose in FORMS:
        right, down = _OFFSET.get(pose, (0.0, 0.0))
        for scale in SCALES:
            radius = scale * (area / AREA[SHAPES.index(shape)]).sqrt()
            middle = torch.stack([x - right * radius, y - down * radius], dim=1)
            drawn = draw_form(shape, pose, SOLID, radius, middle)
            for mask in (drawn, blurred(drawn)):
                errors.append((seen - mask).square().sum(dim=(1, 2)) / area)
                places.append(torch.cat([radius[:, None], middle], dim=1))
    best = torch.stack(errors).min(dim=0)
    found = []
    for row, (error, index) in enumerate(zip(best.values.tolist(), best.indices.tolist(), strict=True)):
        shape, pose = FORMS[index // (len(errors) // len(FORMS))]
        radius_, left, top = places[index][row].tolist()
        found.append(Fit(error, shape, pose, radius_, (left, top), (float(x[row]), float(y[row]))))
    return found


def draw_form(shape: str, pose: str, style: str, radius: Tensor, middle: Tensor) -> Tensor:
    """Masks [K, 32, 32] of one form with radii [K] and middles [K, 2]."""
    dx = _AXIS[None, None, :] - middle[:, 0, None, None]
    dy = _AXIS[None, :, None] - middle[:, 1, None, None]
    return cover(shape, pose, style, radius[:, None, None], dx, dy)


def blurred(masks: Tensor) -> Tensor:
    """Masks [K, 32, 32] a little out of focus, as an autoencoder leaves them."""
    kernel = torch.tensor([1.0, 2.0, 1.0]) / 4
    return functional.conv2d(masks[:, None], torch.outer(kernel, kernel)[None, None], padding=1)[:, 0]


def stripes_error(region: Region, fit: Fit) -> float:
    """How much the region differs from the fitted shape in stripes, as a share of its area."""
    rows = np.flatnonzero(region.own.any(axis=1))
    # The middle stripe's centre is the middle of the whole height.
    middle = (float(rows[0]) + float(rows[-1]) + 1) / 2
    shifts = torch.tensor([-0.75, -0.5, -0.25, 0.0, 0.25, 0.5, 0.75])
    radius = torch.full_like(shifts, fit.radius)
    places = torch.stack([torch.full_like(shifts, fit.middle[0]), middle + shifts], dim=1)
    sharp = draw_form(fit.shape, fit.pose, STRIPED, radius, places)
    masks = torch.cat([sharp, blurred(sharp)])
    return float((torch.from_numpy(region.shares) - masks).square().sum(dim=(1, 2)).min() / region.own.sum())


def best_glyph(region: Region) -> Fit | None:
    """The sign that fits the region best; None: it is too small, too large, or out of proportion."""
    rows, columns = (np.flatnonzero(region.own.any(axis=axis)) for axis in (1, 0))
    top, height = int(rows[0]), int(rows[-1] - rows[0]) + 1
    left, width = int(columns[0]), int(columns[-1] - columns[0]) + 1
    if abs(height - HEIGHT) > 2 or abs(width - WIDTH) > 2:
        return None
    best: Fit | None = None
    seen = torch.from_numpy(region.shares)
    spare = (top + (height - HEIGHT) // 2, left + (width - WIDTH) // 2)
    for sign, ink in GLYPHS.items():
        masks, places = [], []
        for down in (-1, 0, 1):
            for right in (-1, 0, 1):
                at_top, at_left = spare[0] + down, spare[1] + right
                if 0 <= at_top <= IMAGE_SIZE - HEIGHT and 0 <= at_left <= IMAGE_SIZE - WIDTH:
                    mask = torch.zeros(IMAGE_SIZE, IMAGE_SIZE)
                    mask[at_top : at_top + HEIGHT, at_left : at_left + WIDTH] = ink
                    masks.append(mask)
                    places.append((at_left + WIDTH / 2, at_top + HEIGHT / 2))
        if not masks:
            continue
        sharp = torch.stack(masks)
        errors = (seen - torch.cat([sharp, blurred(sharp)])).square().sum(dim=(1, 2)) / ink.sum()
        place = int(errors.argmin())
        error = float(errors[place])
        if best is None or error < best.error:
            middle = places[place % len(places)]
            best = Fit(error, sign, UPRIGHT, HEIGHT / 2, middle, middle)
    return best
