"""Training data: captions in pairs of near neighbors, with images."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from worker.shapes import words as w
from worker.shapes.bench.caption_sampling import Part, part_of, sample
from worker.shapes.bench.caption_variants import alter as alter_sentence
from worker.shapes.bench.scene import Scene
from worker.shapes.bench.scene import draw as draw_scenes
from worker.shapes.bench.scene_layout import NoScene, realize
from worker.shapes.caption_sampling import Rng, canonical, choose, is_heldout, sample_scene
from worker.shapes.grammar import Sentence, caption
from worker.shapes.render import DRAWS, draw, encode, place

RENDERS = 2
"""Images per caption in the benchmark's world, where generating new scenes at every step would take too long."""


@dataclass(frozen=True)
class Batch:
    images: Tensor  # [N, 3, 32, 32] in [0, 1]
    rows: Tensor  # [N] indices of the captions
    meaning: Tensor  # [N] equal for captions with the same meaning


class Scenes(ABC):
    """A fixed pool of captions without held-out captions. Captions 2i and 2i+1 differ in one statement."""

    def __init__(self, sentences: Sequence[Sentence]) -> None:
        self.captions = [caption(sentence) for sentence in sentences]
        numbers: dict[Sentence, int] = {}
        self._meaning = torch.tensor([numbers.setdefault(canonical(one), len(numbers)) for one in sentences])

    @abstractmethod
    def _images(self, rows: Tensor, generator: torch.Generator, device: str) -> Tensor:
        """Return a random image for each caption in `rows`.

        Random numbers are generated on the CPU, so that they do not depend on the device.
        """

    def sample(self, size: int, generator: torch.Generator, device: str) -> Batch:
        """Sample a random batch of `size` images that includes both captions of every sampled pair."""
        first = 2 * torch.randint(len(self.captions) // 2, (size // 2,), generator=generator)
        return self._batch(torch.cat([first, first + 1]), generator, device)

    def in_order(self, size: int, seed: int, device: str) -> Iterator[Batch]:
        """Yield one image of every caption, in the order of `captions`, in batches of `size`."""
        generator = torch.Generator().manual_seed(seed)
        for rows in torch.split(torch.arange(len(self.captions)), size):
            yield self._batch(rows, generator, device)

    def _batch(self, rows: Tensor, generator: torch.Generator, device: str) -> Batch:
        return Batch(self._images(rows, generator, device), rows.to(device), self._meaning[rows].to(device))


class BasicScenes(Scenes):
    """Captions of the basic world, rendered again for every batch."""

    def __init__(self, pairs: int, seed: int) -> None:
        rng = np.random.default_rng(seed)
        scenes: list[Sentence] = []
        while len(scenes) < 2 * pairs:
            scene = sample_scene(rng)
            neighbor = alter(scene, rng)
            if not is_heldout(scene) and not is_heldout(neighbor):
                scenes += [scene, neighbor]
        super().__init__(scenes)
        self._encoded = encode(scenes)

    def _images(self, rows: Tensor, generator: torch.Generator, device: str) -> Tensor:
        draws = torch.rand(len(rows), DRAWS, generator=generator)
        return draw(place(self._encoded[rows].to(device), draws.to(device)))


class BenchScenes(Scenes):
    """Captions of the benchmark's world, with RENDERS images each."""

    def __init__(self, pairs: int, seed: int) -> None:
        rng = np.random.default_rng(seed)
        sentences: list[Sentence] = []
        scenes: list[Scene] = []
        while len(sentences) < 2 * pairs:
            sentence = sample(rng)
            pair = (sentence, alter_sentence(sentence, rng))
            if any(part_of(one) is not Part.TRAIN for one in pair):
                continue
            try:
                scenes += [realize(one, rng) for one in pair for _ in range(RENDERS)]
            except NoScene:
                continue
            sentences += pair
        super().__init__(sentences)
        chunks = (draw_scenes(scenes[start : start + 1000]) for start in range(0, len(scenes), 1000))
        self._rendered = torch.cat([chunk.mul(255).round().byte() for chunk in chunks])

    def _images(self, rows: Tensor, generator: torch.Generator, device: str) -> Tensor:
        which = torch.randint(RENDERS, (len(rows),), generator=generator)
        return self._rendered[RENDERS * rows + which].to(device).float() / 255


@lru_cache(maxsize=1)
def bench_scenes(pairs: int, seed: int) -> BenchScenes:
    """Return the pool for the benchmark's world, cached for all stages because its generation takes minutes."""
    return BenchScenes(pairs, seed)


def alter(scene: Sentence, rng: Rng) -> Sentence:
    """Change one attribute of an object, the relation, or the background of a basic scene."""
    options = {"size": w.SIZES, "color": w.COLORS, "shape": w.SHAPES, "background": w.BACKGROUNDS, "word": w.SIDES}
    while True:
        index = int(rng.integers(len(scene.phrases)))
        name = choose(rng, tuple(options))
        changed = scene if name in ("background", "word") else scene.phrases[index]
        current = getattr(changed, name)
        if not current:
            continue  # a single object has no relation
        change = {name: choose(rng, [option for option in options[name] if option != current])}
        if changed is scene:
            return replace(scene, **change)  # type: ignore[arg-type]
        phrase = replace(scene.phrases[index], **change)  # type: ignore[arg-type]
        try:
            return replace(scene, phrases=(*scene.phrases[:index], phrase, *scene.phrases[index + 1 :]))
        except ValueError:
            continue  # the two objects are ambiguous
