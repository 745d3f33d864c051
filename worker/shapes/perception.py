"""What an image shows: background, and objects by colour, shape, size and place. Classical vision, no weights."""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor
from torch.nn import functional

from worker.shapes import IMAGE_SIZE
from worker.shapes.grammar import BACKGROUNDS, COLOURS, SHAPES
from worker.shapes.render import AREA, BACKGROUND_PALETTE, CENTROID_BELOW_MIDDLE, PALETTE, RADIUS_LIMIT, coverage

CHUNK = 128
"""Images handled at once: the working set stays in the processor's cache."""
LEAST_AREA = 10
"""Connected pixels of one colour that count as an object; the smallest that is ever rendered has 21."""
WORST_FIT = 0.25
"""Largest squared difference to a shape's mask, as a share of the object's area, that still counts as this shape."""
SCALES = (0.92, 1.0, 1.08)
"""Radii tried for each shape, relative to what the area suggests: blur and pixel steps make the area inexact."""
BACKGROUND_TOLERANCE = 0.25
"""Largest distance in RGB of the border to a background colour."""
REACH = 9
"""Half width in pixels of the window in which a shape is compared with its mask."""

Floats = NDArray[np.float32]
Integers = NDArray[np.int64]

# Pixels connect to their four neighbours in the same image and the same colour plane only.
_CONNECTED = np.zeros((3, 3, 3), dtype=bool)
_CONNECTED[1] = ndimage.generate_binary_structure(2, 1)


@dataclass(frozen=True)
class SeenObject:
    colour: str
    shape: str | None  # None: like none of the shapes
    size: str
    x: float  # centre of mass, pixels from the left
    y: float  # pixels from the top


@dataclass(frozen=True)
class SeenImage:
    objects: tuple[SeenObject, ...]
    background: str | None  # None: like none of the backgrounds


def perceive(images: Tensor) -> list[SeenImage]:
    """What each of `images` [N, 3, H, W] in [0, 1] shows, independently of the others. Other sizes are resized."""
    if images.ndim != 4 or images.shape[1] != 3:
        raise ValueError(f"images must be [N, 3, H, W], not {list(images.shape)}")
    images = images.detach().to("cpu", torch.float32).clamp(0, 1)
    if images.shape[2:] != (IMAGE_SIZE, IMAGE_SIZE):
        images = functional.interpolate(images, (IMAGE_SIZE, IMAGE_SIZE), mode="area")
    return [seen for chunk in torch.split(images, CHUNK) for seen in _perceive_chunk(chunk)]


def _perceive_chunk(images: Tensor) -> list[SeenImage]:
    backgrounds = nearest_background(images)
    covered, colour = segment(images, backgrounds[0])
    components = _components(covered, colour, len(images))
    shape, radius = _match(components, covered)
    found: list[list[SeenObject]] = [[] for _ in range(len(images))]
    rows = zip(
        components.image.tolist(), components.colour.tolist(), components.centre.tolist(), shape, radius, strict=True
    )
    for image, tone, (x, y), form, size in rows:
        name = SHAPES[form] if form >= 0 else None
        found[image].append(SeenObject(COLOURS[tone], name, "large" if size >= RADIUS_LIMIT else "small", x, y))
    names = [
        BACKGROUNDS[index] if sure else None for index, sure in zip(*(b.tolist() for b in backgrounds), strict=True)
    ]
    return [SeenImage(tuple(objects), name) for objects, name in zip(found, names, strict=True)]


def nearest_background(images: Tensor) -> tuple[Tensor, Tensor]:
    """The nearest background [N] of each image's border, and whether it is near enough [N]."""
    rim = torch.cat([images[:, :, 0], images[:, :, -1], images[:, :, 1:-1, 0], images[:, :, 1:-1, -1]], dim=2)
    distance = (rim.median(dim=2).values[:, None] - BACKGROUND_PALETTE).square().sum(dim=2).sqrt()
    nearest = distance.min(dim=1)
    return nearest.indices, nearest.values <= BACKGROUND_TOLERANCE


def segment(images: Tensor, background: Tensor) -> tuple[Tensor, Tensor]:
    """Each pixel as a mix of background and one colour: share [N, H, W] of the colour, and which colour [N, H, W].

    An anti-aliased edge lies on the line between the two, so it is recognised as half covered, not as a third colour.
    """
    ground = BACKGROUND_PALETTE[background][:, :, None, None]
    offset = images - ground
    best = torch.full_like(offset[:, 0], torch.inf)
    share = torch.zeros_like(best)
    colour = torch.zeros_like(best, dtype=torch.int64)
    for index, tone in enumerate(PALETTE):
        line = tone[None, :, None, None] - ground
        length = line.square().sum(dim=1)
        along = ((offset * line).sum(dim=1) / length).clamp(0, 1)
        miss = (offset - along[:, None] * line).square().sum(dim=1)
        better = miss < best
        best = torch.where(better, miss, best)
        share = torch.where(better, along, share)
        colour.masked_fill_(better, index)
    return share, colour


@dataclass(frozen=True)
class _Components:
    """The connected regions of a chunk that are big enough, K in all."""

    image: Integers  # [K]
    colour: Integers  # [K]
    area: Floats  # [K] pixels
    centre: Floats  # [K, 2] x, y
    owner: Integers  # [N, H, W] index of the region a pixel belongs to, or -1


def _components(covered: Tensor, colour: Tensor, count: int) -> _Components:
    solid = covered.numpy() >= 0.5
    planes = (solid[:, None] & (colour.numpy()[:, None] == np.arange(len(COLOURS))[:, None, None])).reshape(
        -1, IMAGE_SIZE, IMAGE_SIZE
    )
    labels, found = ndimage.label(planes, _CONNECTED)
    plane, y, x = np.nonzero(labels)
    label = labels[plane, y, x] - 1
    area = np.bincount(label, minlength=found)
    kept = np.flatnonzero(area >= LEAST_AREA)
    renumbered = np.full(found, -1)
    renumbered[kept] = np.arange(len(kept))

    home = np.zeros(found, dtype=np.int64)
    home[label] = plane
    centre_x = np.bincount(label, x + 0.5, found)[kept] / area[kept]
    centre_y = np.bincount(label, y + 0.5, found)[kept] / area[kept]
    owner = np.full((count, IMAGE_SIZE, IMAGE_SIZE), -1)
    owner[plane // len(COLOURS), y, x] = renumbered[label]
    return _Components(
        image=home[kept] // len(COLOURS),
        colour=home[kept] % len(COLOURS),
        area=area[kept].astype(np.float32),
        centre=np.stack([centre_x, centre_y], axis=1).astype(np.float32),
        owner=owner,
    )


def _match(components: _Components, covered: Tensor) -> tuple[list[int], list[float]]:
    """Shape (index into SHAPES, or -1) and radius of every region: each shape is drawn in its place and compared."""
    kept = len(components.area)
    if kept == 0:
        return [], []
    span = torch.arange(-REACH, REACH + 1)
    centre = torch.from_numpy(components.centre)
    x = centre[:, 0].floor().long()[:, None] + span  # [K, window]
    y = centre[:, 1].floor().long()[:, None] + span
    inside = ((x >= 0) & (x < IMAGE_SIZE))[:, None, :] & ((y >= 0) & (y < IMAGE_SIZE))[:, :, None]
    at = (torch.from_numpy(components.image)[:, None, None], y.clamp(0, 31)[:, :, None], x.clamp(0, 31)[:, None, :])
    owner = torch.from_numpy(components.owner)[at]
    own = inside & (owner == torch.arange(kept)[:, None, None])
    # The half covered pixels of its outline lie next to its own ones; further away there is only noise.
    outline = functional.max_pool2d(own.float(), 3, stride=1, padding=1) > 0
    seen = torch.where(inside & outline & (own | (owner < 0)), covered[at], 0.0)

    dx = (x + 0.5 - centre[:, :1])[:, None, :]
    dy = (y + 0.5 - centre[:, 1:])[:, :, None]
    area = torch.from_numpy(components.area)
    fits, radii = [], []
    for index, shape in enumerate(SHAPES):
        for scale in SCALES:
            radius = scale * (area / AREA[index]).sqrt()[:, None, None]
            drawn = coverage(shape, dx, dy + CENTROID_BELOW_MIDDLE[index] * radius, radius)
            for mask in (drawn, _blurred(drawn)):
                fits.append((seen - mask).square_().mul_(inside).sum(dim=(1, 2)) / area)
                radii.append(radius[:, 0, 0])
    best = torch.stack(fits).min(dim=0)
    radius = torch.stack(radii).gather(0, best.indices[None])[0]
    shape_index = best.indices // (len(fits) // len(SHAPES))
    return torch.where(best.values <= WORST_FIT, shape_index, -1).tolist(), radius.tolist()


def _blurred(masks: Tensor) -> Tensor:
    """Masks [K, H, W] a little out of focus, as an autoencoder leaves them; the rim of the window stays empty."""
    blurred = torch.zeros_like(masks)
    rows = masks[:, :-2] + 2 * masks[:, 1:-1] + masks[:, 2:]
    blurred[:, 1:-1, 1:-1] = (rows[:, :, :-2] + 2 * rows[:, :, 1:-1] + rows[:, :, 2:]) / 16
    return blurred
