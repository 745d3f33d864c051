"""Renderer for the basic world: batched, anti-aliased signed-distance masks at positions determined by a seed."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from worker.shapes import IMAGE_SIZE
from worker.shapes.grammar import Sentence
from worker.shapes.words import BACKGROUNDS, COLORS, SHAPES, SIDES, SIZES

PALETTE = torch.tensor(
    [
        [0.90, 0.10, 0.10],  # red
        [0.10, 0.65, 0.20],  # green
        [0.10, 0.25, 0.90],  # blue
        [1.00, 0.90, 0.10],  # yellow
        [0.55, 0.15, 0.75],  # purple
        [1.00, 0.55, 0.00],  # orange
    ]
)
BACKGROUND_PALETTE = torch.tensor([[1.0, 1.0, 1.0], [0.5, 0.5, 0.5], [0.0, 0.0, 0.0]])

RADIUS = torch.tensor([[3.2, 3.9], [5.6, 6.4]])
"""Radius ranges in pixels, for small and for large objects."""
RADIUS_LIMIT = 4.75
"""Minimum radius in pixels at which an object is perceived as large."""

HALF_SIDE, HALF_DIAGONAL, HALF_BASE, ARM, ARM_WIDTH = 0.88, 1.12, 1.05, 1.05, 0.36
"""Proportions at radius 1, chosen so that all shapes of one size look about equally large."""
HALF_EXTENT = torch.tensor([1.0, HALF_SIDE, HALF_BASE, HALF_DIAGONAL, ARM])
AREA = torch.tensor(
    [torch.pi, 4 * HALF_SIDE**2, 2 * HALF_BASE, 2 * HALF_DIAGONAL**2, 8 * ARM * ARM_WIDTH - 4 * ARM_WIDTH**2]
)
"""Area of each shape at radius 1."""
CENTROID_BELOW_MIDDLE = torch.tensor([0.0, 0.0, 1 / 3, 0.0, 0.0])
"""Distance from the center of the bounding box down to the center of mass, for each shape at radius 1."""

MARGIN, GAP = 0.5, 1.5
"""Minimum distances in pixels, from an object to the image edge and to the other object."""
SLANT = 0.4
"""Maximum offset perpendicular to a relation's axis, as a share of the distance along the axis."""
DRAWS = 6
"""Number of random numbers per image."""


@dataclass(frozen=True)
class Placed:
    """A batch of scenes with the positions of all objects. The shape of a missing second object is -1."""

    shape: Tensor  # [N, 2] index into SHAPES, or -1
    color: Tensor  # [N, 2] index into COLORS
    radius: Tensor  # [N, 2] pixels
    center: Tensor  # [N, 2, 2] x and y of the center of the bounding box, pixels
    background: Tensor  # [N] index into BACKGROUNDS


def render(scenes: Sequence[Sentence], seed: int = 0) -> Tensor:
    """Render images [N, 3, 32, 32] in [0, 1]. `seed` varies sizes and positions within what the captions allow."""
    draws = torch.rand(len(scenes), DRAWS, generator=torch.Generator().manual_seed(seed))
    return draw(place(encode(scenes), draws))


def encode(scenes: Sequence[Sentence]) -> Tensor:
    """Encode scenes as integers [N, 8]: shape, color and size of both objects, relation, background.

    Values of a missing object or relation are -1.
    """
    rows = []
    for scene in scenes:
        row = [-1] * 7
        for index, one in enumerate(scene.phrases):
            shape, color, size = str(one.shape), str(one.color), str(one.size)
            row[3 * index : 3 * index + 3] = SHAPES.index(shape), COLORS.index(color), SIZES.index(size)
        if scene.word:
            row[6] = SIDES.index(scene.word)
        rows.append([*row, BACKGROUNDS.index(scene.background)])
    return torch.tensor(rows)


def place(encoded: Tensor, draws: Tensor) -> Placed:
    """Compute radii and centers for scenes from `encode`, using uniform random numbers `draws` [N, 6]."""
    shape, color, size = encoded[:, :6].reshape(-1, 2, 3).unbind(2)
    low, high = RADIUS.to(draws.device)[size.clamp(min=0)].unbind(-1)
    radius = low + (high - low) * draws[:, :2]
    extent = radius * HALF_EXTENT.to(draws.device)[shape.clamp(min=0)]
    alone = _place_one(extent, draws)
    pair = _place_two(extent, encoded[:, 6], draws)
    center = torch.where((shape[:, 1] < 0)[:, None, None], alone, pair)
    return Placed(shape, color.clamp(min=0), radius, center, encoded[:, 7])


def draw(placed: Placed) -> Tensor:
    """Draw images [N, 3, 32, 32] in [0, 1] of placed objects."""
    device = placed.shape.device
    images = BACKGROUND_PALETTE.to(device)[placed.background][:, :, None, None].expand(-1, -1, IMAGE_SIZE, IMAGE_SIZE)
    axis = torch.arange(IMAGE_SIZE, device=device) + 0.5
    for index in range(placed.shape.shape[1]):
        dx = (axis - placed.center[:, index, 0, None])[:, None, :]
        dy = (axis - placed.center[:, index, 1, None])[:, :, None]
        covered = torch.zeros(len(images), IMAGE_SIZE, IMAGE_SIZE, device=device)
        for number, shape in enumerate(SHAPES):
            rows = placed.shape[:, index] == number
            covered[rows] = coverage(shape, dx[rows], dy[rows], placed.radius[rows, index, None, None])
        colors = PALETTE.to(device)[placed.color[:, index]][:, :, None, None]
        images = images + covered[:, None] * (colors - images)
    return images


def coverage(shape: str, dx: Tensor, dy: Tensor, radius: Tensor) -> Tensor:
    """Compute the share in [0, 1] of each pixel that `shape` covers.

    dx, dy: pixel offsets from the center of the shape.
    """
    return (0.5 - distance(shape, dx, dy, radius)).clamp(0, 1)


def distance(shape: str, dx: Tensor, dy: Tensor, radius: Tensor) -> Tensor:
    """Compute the signed distance in pixels to the outline of `shape`. It is negative inside the shape."""
    dx, height = dx.abs(), dy.abs()
    match shape:
        case "circle":
            return (dx.square() + dy.square()).sqrt() - radius
        case "square":
            return torch.maximum(dx, height) - HALF_SIDE * radius
        case "triangle":
            # The apex is at dy = -radius (up), the base at dy = radius.
            sides = (2 * dx - HALF_BASE * (dy + radius)) / (4 + HALF_BASE**2) ** 0.5
            return torch.maximum(sides, dy - radius)
        case "diamond":
            return (dx + height - HALF_DIAGONAL * radius) / 2**0.5
    across = torch.maximum(dx - ARM * radius, height - ARM_WIDTH * radius)
    upright = torch.maximum(dx - ARM_WIDTH * radius, height - ARM * radius)
    return torch.minimum(across, upright)


def _place_one(extent: Tensor, draws: Tensor) -> Tensor:
    """Compute centers [N, 2, 2] with the first object anywhere inside the image."""
    room = IMAGE_SIZE - 2 * (extent[:, :1] + MARGIN)
    first = extent[:, :1] + MARGIN + room * draws[:, 2:4]
    return torch.stack([first, first], dim=1)


def _place_two(extent: Tensor, relation: Tensor, draws: Tensor) -> Tensor:
    """Compute centers [N, 2, 2] of two objects, separated along the relation's axis and roughly aligned with it."""
    leading, upright = relation % 2 == 0, relation >= 2  # left of and above; above and below
    free = IMAGE_SIZE - 2 * MARGIN - GAP - 2 * extent.sum(dim=1)
    # Two cuts divide the free length into the parts before, between and after the objects.
    cuts = (free[:, None] * draws[:, 2:4]).sort(dim=1).values
    one, two = torch.where(leading[:, None], extent, extent.flip(1)).unbind(1)
    near = MARGIN + cuts[:, 0] + one
    far = near + one + GAP + (cuts[:, 1] - cuts[:, 0]) + two
    along = torch.where(leading[:, None], torch.stack([near, far], 1), torch.stack([far, near], 1))

    lowest = extent + MARGIN
    highest = IMAGE_SIZE - lowest
    start = lowest[:, 0] + (highest[:, 0] - lowest[:, 0]) * draws[:, 4]
    other = start + (2 * draws[:, 5] - 1) * SLANT * (far - near)
    across = torch.stack([start, other.clamp(lowest[:, 1], highest[:, 1])], 1)
    x_first = torch.stack([along, across], dim=2)
    return torch.where(upright[:, None, None], x_first.flip(2), x_first)
