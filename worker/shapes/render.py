"""Images of scenes: batched signed-distance masks, anti-aliased, at places drawn from a seed."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from worker.shapes import IMAGE_SIZE
from worker.shapes.grammar import BACKGROUNDS, COLOURS, RELATIONS, SHAPES, SIZES, Scene

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
"""Smallest and largest radius in pixels of small and of large objects."""
RADIUS_LIMIT = 4.75
"""A radius from here on is large."""

HALF_SIDE, HALF_DIAGONAL, HALF_BASE, ARM, ARM_WIDTH = 0.88, 1.12, 1.05, 1.05, 0.36
"""Proportions at radius 1, chosen so that all shapes of one size look about equally big."""
HALF_EXTENT = torch.tensor([1.0, HALF_SIDE, HALF_BASE, HALF_DIAGONAL, ARM])
AREA = torch.tensor(
    [torch.pi, 4 * HALF_SIDE**2, 2 * HALF_BASE, 2 * HALF_DIAGONAL**2, 8 * ARM * ARM_WIDTH - 4 * ARM_WIDTH**2]
)
"""Area of each shape at radius 1."""
CENTROID_BELOW_MIDDLE = torch.tensor([0.0, 0.0, 1 / 3, 0.0, 0.0])
"""How far the centre of mass lies below the middle of the bounding box, at radius 1."""

MARGIN, GAP = 0.5, 1.5
"""Least distance in pixels of an object to the edge of the image, and to the other object."""
SLANT = 0.4
"""Largest offset across a relation's axis, as a share of the distance along it."""
DRAWS = 6
"""Random numbers per image."""


@dataclass(frozen=True)
class Placed:
    """A batch of scenes with every object at its place. An absent second object has shape -1."""

    shape: Tensor  # [N, 2] index into SHAPES, or -1
    colour: Tensor  # [N, 2] index into COLOURS
    radius: Tensor  # [N, 2] pixels
    centre: Tensor  # [N, 2, 2] x and y of the middle of the bounding box, pixels
    background: Tensor  # [N] index into BACKGROUNDS

    def to(self, device: torch.device | str) -> "Placed":
        parts = (self.shape, self.colour, self.radius, self.centre, self.background)
        return Placed(*(part.to(device) for part in parts))


def render(scenes: Sequence[Scene], seed: int = 0) -> Tensor:
    """Images [N, 3, 32, 32] in [0, 1]. `seed` jitters sizes and places, within what keeps the caption true."""
    draws = torch.rand(len(scenes), DRAWS, generator=torch.Generator().manual_seed(seed))
    return draw(place(encode(scenes), draws))


def encode(scenes: Sequence[Scene]) -> Tensor:
    """Scenes as integers [N, 8]: shape, colour, size of both objects (-1 where absent), relation, background."""
    rows = []
    for scene in scenes:
        row = [-1] * 7
        for index, thing in enumerate(scene.objects):
            numbers = (SHAPES.index(thing.shape), COLOURS.index(thing.colour), SIZES.index(thing.size))
            row[3 * index : 3 * index + 3] = numbers
        if scene.relations:
            row[6] = RELATIONS.index(scene.relations[0].name)
        rows.append([*row, BACKGROUNDS.index(scene.background)])
    return torch.tensor(rows)


def place(encoded: Tensor, draws: Tensor) -> Placed:
    """Radii and centres for `encode`'s integers from uniform draws [N, 6]; the same draws give the same places."""
    things = encoded[:, :6].reshape(-1, 2, 3)
    shape, colour, size = things.unbind(2)
    low, high = RADIUS.to(draws.device)[size.clamp(min=0)].unbind(-1)
    radius = low + (high - low) * draws[:, :2]
    extent = radius * HALF_EXTENT.to(draws.device)[shape.clamp(min=0)]
    alone = _place_one(extent, draws)
    pair = _place_two(extent, encoded[:, 6], draws)
    centre = torch.where((shape[:, 1] < 0)[:, None, None], alone, pair)
    return Placed(shape, colour.clamp(min=0), radius, centre, encoded[:, 7])


def draw(placed: Placed) -> Tensor:
    """Images [N, 3, 32, 32] in [0, 1] of placed objects."""
    device = placed.shape.device
    images = BACKGROUND_PALETTE.to(device)[placed.background][:, :, None, None].expand(-1, -1, IMAGE_SIZE, IMAGE_SIZE)
    axis = torch.arange(IMAGE_SIZE, device=device) + 0.5
    for index in range(placed.shape.shape[1]):
        dx = (axis - placed.centre[:, index, 0, None])[:, None, :]
        dy = (axis - placed.centre[:, index, 1, None])[:, :, None]
        covered = torch.zeros(len(images), IMAGE_SIZE, IMAGE_SIZE, device=device)
        for shape in range(len(SHAPES)):
            rows = placed.shape[:, index] == shape
            covered[rows] = coverage(SHAPES[shape], dx[rows], dy[rows], placed.radius[rows, index, None, None])
        colours = PALETTE.to(device)[placed.colour[:, index]][:, :, None, None]
        images = images + covered[:, None] * (colours - images)
    return images


def coverage(shape: str, dx: Tensor, dy: Tensor, radius: Tensor) -> Tensor:
    """Share in [0, 1] of each pixel that `shape` covers; `dx`, `dy` are pixel centres seen from its middle."""
    return (0.5 - distance(shape, dx, dy, radius)).clamp(0, 1)


def distance(shape: str, dx: Tensor, dy: Tensor, radius: Tensor) -> Tensor:
    """Signed distance in pixels to the outline of `shape`, negative inside."""
    return _DISTANCE[shape](dx.abs(), dy, radius)


def _circle(dx: Tensor, dy: Tensor, radius: Tensor) -> Tensor:
    return (dx.square() + dy.square()).sqrt() - radius


def _square(dx: Tensor, dy: Tensor, radius: Tensor) -> Tensor:
    return torch.maximum(dx, dy.abs()) - HALF_SIDE * radius


def _triangle(dx: Tensor, dy: Tensor, radius: Tensor) -> Tensor:
    # The apex is at dy = -radius (up), the base at dy = radius.
    sides = (2 * dx - HALF_BASE * (dy + radius)) / (4 + HALF_BASE**2) ** 0.5
    return torch.maximum(sides, dy - radius)


def _diamond(dx: Tensor, dy: Tensor, radius: Tensor) -> Tensor:
    return (dx + dy.abs() - HALF_DIAGONAL * radius) / 2**0.5


def _cross(dx: Tensor, dy: Tensor, radius: Tensor) -> Tensor:
    dy = dy.abs()
    across = torch.maximum(dx - ARM * radius, dy - ARM_WIDTH * radius)
    upright = torch.maximum(dx - ARM_WIDTH * radius, dy - ARM * radius)
    return torch.minimum(across, upright)


_DISTANCE: dict[str, Callable[[Tensor, Tensor, Tensor], Tensor]] = {
    "circle": _circle,
    "square": _square,
    "triangle": _triangle,
    "diamond": _diamond,
    "cross": _cross,
}
"""Signed distance in pixels to the outline, negative inside; `dx` comes absolute, since all shapes are symmetric."""


def _place_one(extent: Tensor, draws: Tensor) -> Tensor:
    """Centres [N, 2, 2] with the first object anywhere inside the image."""
    room = IMAGE_SIZE - 2 * (extent[:, :1] + MARGIN)
    first = extent[:, :1] + MARGIN + room * draws[:, 2:4]
    return torch.stack([first, first], dim=1)


def _place_two(extent: Tensor, relation: Tensor, draws: Tensor) -> Tensor:
    """Centres [N, 2, 2] of two objects, clear of each other along the relation's axis and nearly level across it."""
    total = 2 * extent.sum(dim=1)
    free = IMAGE_SIZE - 2 * MARGIN - GAP - total
    # Two cuts of the free length: before, between, behind.
    cuts = (free[:, None] * draws[:, 2:4]).sort(dim=1).values
    leading = torch.isin(
        relation, torch.tensor([RELATIONS.index("left of"), RELATIONS.index("above")], device=relation.device)
    )
    one, two = torch.where(leading[:, None], extent, extent.flip(1)).unbind(1)
    near = MARGIN + cuts[:, 0] + one
    far = near + one + GAP + (cuts[:, 1] - cuts[:, 0]) + two
    along = torch.where(leading[:, None], torch.stack([near, far], 1), torch.stack([far, near], 1))

    lowest = extent + MARGIN
    highest = IMAGE_SIZE - lowest
    start = lowest[:, 0] + (highest[:, 0] - lowest[:, 0]) * draws[:, 4]
    other = start + (2 * draws[:, 5] - 1) * SLANT * (far - near)
    across = torch.stack([start, other.clamp(lowest[:, 1], highest[:, 1])], 1)

    upright = torch.isin(
        relation, torch.tensor([RELATIONS.index("above"), RELATIONS.index("below")], device=relation.device)
    )
    x_first = torch.stack([along, across], dim=2)
    return torch.where(upright[:, None, None], x_first.flip(2), x_first)
