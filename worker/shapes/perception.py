"""Perception for the basic world: detects background and objects by classical computer vision, without weights."""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor
from torch.nn import functional

from worker.shapes import IMAGE_SIZE
from worker.shapes.image_content import PerceivedImage, PerceivedObject
from worker.shapes.render import AREA, BACKGROUND_PALETTE, CENTROID_BELOW_MIDDLE, PALETTE, coverage
from worker.shapes.words import BACKGROUNDS, COLORS, SHAPES

CHUNK = 128
"""Images per batch. The working set of a batch fits into the processor's cache."""
MIN_AREA = 10
"""Minimum number of connected pixels in an object. The smallest rendered object has 21."""
MAX_MISFIT = 0.25
"""Maximum squared difference between an object and a shape's mask for a match, as a share of the object's area."""
SCALES = (0.92, 1.0, 1.08)
"""Candidate radii relative to the estimate from the area, which is inexact because of blur and pixel steps."""
BACKGROUND_TOLERANCE = 0.25
"""Maximum RGB distance between an image border and a background color."""
REACH = 9
"""Half the width, in pixels, of the window in which a region is compared with masks."""

Floats = NDArray[np.float32]
Integers = NDArray[np.int64]

# Pixels are connected only to their four neighbors in the same image and color plane.
_CONNECTED = np.zeros((3, 3, 3), dtype=bool)
_CONNECTED[1] = ndimage.generate_binary_structure(2, 1)


def perceive(images: Tensor) -> list[PerceivedImage]:
    """Detect the background and objects in each of `images` [N, 3, H, W] in [0, 1].

    Each result is independent of the other images. Images of any size other than 32×32 are resized.
    """
    return [seen for chunk in torch.split(normalize(images), CHUNK) for seen in _perceive_chunk(chunk)]


def normalize(images: Tensor) -> Tensor:
    """Convert `images` [N, 3, H, W] to float32 [N, 3, 32, 32] in [0, 1] on the CPU.

    Raises ValueError for any other number of dimensions or channels.
    """
    if images.ndim != 4 or images.shape[1] != 3:
        raise ValueError(f"images must be [N, 3, H, W], not {list(images.shape)}")
    images = images.detach().to("cpu", torch.float32).clamp(0, 1)
    if images.shape[2:] == (IMAGE_SIZE, IMAGE_SIZE):
        return images
    return functional.interpolate(images, (IMAGE_SIZE, IMAGE_SIZE), mode="area")


def _perceive_chunk(images: Tensor) -> list[PerceivedImage]:
    background, names = nearest_background(images)
    covered, color = segment(images, background)
    regions = _regions(covered, color, len(images))
    shapes, radii = _match(regions, covered)
    found: list[list[PerceivedObject]] = [[] for _ in range(len(images))]
    rows = zip(regions.image.tolist(), regions.color.tolist(), shapes, radii, regions.center.tolist(), strict=True)
    for image, tone, shape, radius, (x, y) in rows:
        found[image].append(PerceivedObject(SHAPES[shape] if shape >= 0 else None, COLORS[tone], radius, x, y))
    return [PerceivedImage(tuple(objects), name) for objects, name in zip(found, names, strict=True)]


def nearest_background(images: Tensor) -> tuple[Tensor, list[str | None]]:
    """Return the index [N] of the background nearest to each image's border, and its name.

    The name is None if the color differs too much from every background.
    """
    rim = torch.cat([images[:, :, 0], images[:, :, -1], images[:, :, 1:-1, 0], images[:, :, 1:-1, -1]], dim=2)
    distance = (rim.median(dim=2).values[:, None] - BACKGROUND_PALETTE).square().sum(dim=2).sqrt()
    nearest = distance.min(dim=1)
    near = (nearest.values <= BACKGROUND_TOLERANCE).tolist()
    rows = zip(nearest.indices.tolist(), near, strict=True)
    return nearest.indices, [BACKGROUNDS[index] if is_near else None for index, is_near in rows]


def segment(images: Tensor, background: Tensor) -> tuple[Tensor, Tensor]:
    """Decompose each pixel into the background and one color; return the color's share and index, each [N, H, W].

    An anti-aliased edge pixel has a color between the two. It counts as partly covered, not as a third color.
    """
    ground = BACKGROUND_PALETTE[background][:, :, None, None]
    offset = images - ground
    best = torch.full_like(offset[:, 0], torch.inf)
    share = torch.zeros_like(best)
    color = torch.zeros_like(best, dtype=torch.int64)
    for index, tone in enumerate(PALETTE):
        line = tone[None, :, None, None] - ground
        length = line.square().sum(dim=1)
        along = ((offset * line).sum(dim=1) / length).clamp(0, 1)
        miss = (offset - along[:, None] * line).square().sum(dim=1)
        better = miss < best
        best = torch.where(better, miss, best)
        share = torch.where(better, along, share)
        color.masked_fill_(better, index)
    return share, color


@dataclass(frozen=True)
class _Regions:
    """The K connected regions in a batch of images that have at least MIN_AREA pixels."""

    image: Integers  # [K]
    color: Integers  # [K]
    area: Floats  # [K] pixels
    center: Floats  # [K, 2] x, y
    owner: Integers  # [N, H, W] index of each pixel's region, or -1


def _regions(covered: Tensor, color: Tensor, count: int) -> _Regions:
    solid = covered.numpy() >= 0.5
    planes = solid[:, None] & (color.numpy()[:, None] == np.arange(len(COLORS))[:, None, None])
    labels, found = ndimage.label(planes.reshape(-1, IMAGE_SIZE, IMAGE_SIZE), _CONNECTED)
    plane, y, x = np.nonzero(labels)
    label = labels[plane, y, x] - 1
    area = np.bincount(label, minlength=found)
    large = np.flatnonzero(area >= MIN_AREA)
    renumbered = np.full(found, -1)
    renumbered[large] = np.arange(len(large))

    plane_of = np.zeros(found, dtype=np.int64)
    plane_of[label] = plane
    center = [np.bincount(label, axis + 0.5, found)[large] / area[large] for axis in (x, y)]
    owner = np.full((count, IMAGE_SIZE, IMAGE_SIZE), -1)
    owner[plane // len(COLORS), y, x] = renumbered[label]
    return _Regions(
        image=plane_of[large] // len(COLORS),
        color=plane_of[large] % len(COLORS),
        area=area[large].astype(np.float32),
        center=np.stack(center, axis=1).astype(np.float32),
        owner=owner,
    )


def _match(regions: _Regions, covered: Tensor) -> tuple[list[int], list[float]]:
    """Match every region against each shape's mask and return shapes (index into SHAPES, or -1) and radii."""
    count = len(regions.area)
    if count == 0:
        return [], []
    span = torch.arange(-REACH, REACH + 1)
    center = torch.from_numpy(regions.center)
    x = center[:, 0].floor().long()[:, None] + span  # [K, window]
    y = center[:, 1].floor().long()[:, None] + span
    inside = ((x >= 0) & (x < IMAGE_SIZE))[:, None, :] & ((y >= 0) & (y < IMAGE_SIZE))[:, :, None]
    at = (torch.from_numpy(regions.image)[:, None, None], y.clamp(0, 31)[:, :, None], x.clamp(0, 31)[:, None, :])
    owner = torch.from_numpy(regions.owner)[at]
    own = inside & (owner == torch.arange(count)[:, None, None])
    # The partly covered pixels of the outline are adjacent to the region; pixels farther away are only noise.
    outline = functional.max_pool2d(own.float(), 3, stride=1, padding=1) > 0
    seen = torch.where(inside & outline & (own | (owner < 0)), covered[at], 0.0)

    dx = (x + 0.5 - center[:, :1])[:, None, :]
    dy = (y + 0.5 - center[:, 1:])[:, :, None]
    area = torch.from_numpy(regions.area)
    errors, radii = [], []
    for index, shape in enumerate(SHAPES):
        for scale in SCALES:
            radius = scale * (area / AREA[index]).sqrt()[:, None, None]
            sharp = coverage(shape, dx, dy + CENTROID_BELOW_MIDDLE[index] * radius, radius)
            for mask in (sharp, _blurred(sharp)):
                errors.append((seen - mask).square_().mul_(inside).sum(dim=(1, 2)) / area)
                radii.append(radius[:, 0, 0])
    best = torch.stack(errors).min(dim=0)
    radius = torch.stack(radii).gather(0, best.indices[None])[0]
    shape_index = best.indices // (len(errors) // len(SHAPES))
    return torch.where(best.values <= MAX_MISFIT, shape_index, -1).tolist(), radius.tolist()


def _blurred(masks: Tensor) -> Tensor:
    """Blur masks [K, H, W] slightly, as an autoencoder does. The rim of the window stays empty."""
    blurred = torch.zeros_like(masks)
    rows = masks[:, :-2] + 2 * masks[:, 1:-1] + masks[:, 2:]
    blurred[:, 1:-1, 1:-1] = (rows[:, :, :-2] + 2 * rows[:, :, 1:-1] + rows[:, :, 2:]) / 16
    return blurred
