"""Training data: scenes in pairs of near neighbours, rendered anew at every step."""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from worker.shapes.grammar import (
    BACKGROUNDS,
    COLOURS,
    RELATIONS,
    SHAPES,
    SIZES,
    Scene,
    canonical,
    caption,
    is_heldout,
    sample_scene,
)
from worker.shapes.render import DRAWS, draw, encode, place


@dataclass(frozen=True)
class Batch:
    images: Tensor  # [N, 3, 32, 32] in [0, 1]
    rows: Tensor  # [N] which of the captions
    meaning: Tensor  # [N] equal for captions that tell the same scene


class TrainingScenes:
    """A fixed pool of captions, none held out. Captions 2i and 2i+1 differ in one attribute only."""

    def __init__(self, pairs: int, seed: int) -> None:
        rng = np.random.default_rng(seed)
        scenes: list[Scene] = []
        while len(scenes) < 2 * pairs:
            scene = sample_scene(rng)
            neighbour = alter(scene, rng)
            if not is_heldout(caption(scene)) and not is_heldout(caption(neighbour)):
                scenes += [scene, neighbour]
        self.captions = [caption(scene) for scene in scenes]
        self._encoded = encode(scenes)
        numbers: dict[Scene, int] = {}
        self._meaning = torch.tensor([numbers.setdefault(canonical(scene), len(numbers)) for scene in scenes])

    def batches(self, size: int, steps: int, generator: torch.Generator, device: str) -> Iterator[Batch]:
        """`steps` random batches of `size` images, neighbours together. All draws are made on the CPU, so that
        the data do not depend on the device."""
        for _ in range(steps):
            first = 2 * torch.randint(len(self.captions) // 2, (size // 2,), generator=generator)
            rows = torch.cat([first, first + 1])
            draws = torch.rand(size, DRAWS, generator=generator).to(device)
            images = draw(place(self._encoded[rows].to(device), draws))
            yield Batch(images, rows.to(device), self._meaning[rows].to(device))

    def in_order(self, size: int, seed: int, device: str) -> Iterator[Batch]:
        """One image of every caption, in the order of `captions`, in batches of `size`."""
        generator = torch.Generator().manual_seed(seed)
        for rows in torch.split(torch.arange(len(self.captions)), size):
            draws = torch.rand(len(rows), DRAWS, generator=generator).to(device)
            images = draw(place(self._encoded[rows].to(device), draws))
            yield Batch(images, rows.to(device), self._meaning[rows].to(device))


def alter(scene: Scene, rng: np.random.Generator) -> Scene:
    """`scene` with one attribute changed: of one object, the relation, or the background."""
    while True:
        index = int(rng.integers(len(scene.objects)))
        thing = scene.objects[index]
        what = ("size", "colour", "shape", "background", "relation")[int(rng.integers(5))]
        if what == "background":
            return replace(scene, background=_other(rng, BACKGROUNDS, scene.background))
        if what == "relation":
            if not scene.relations:
                continue
            relation = scene.relations[0]
            return replace(scene, relations=(replace(relation, name=_other(rng, RELATIONS, relation.name)),))
        options = {"size": SIZES, "colour": COLOURS, "shape": SHAPES}[what]
        changed = replace(thing, **{what: _other(rng, options, getattr(thing, what))})
        if changed.kind in [other.kind for place, other in enumerate(scene.objects) if place != index]:
            continue
        return replace(scene, objects=(*scene.objects[:index], changed, *scene.objects[index + 1 :]))


def _other(rng: np.random.Generator, options: tuple[str, ...], current: str) -> str:
    rest = [option for option in options if option != current]
    return rest[int(rng.integers(len(rest)))]
