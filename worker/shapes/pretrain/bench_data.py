"""Training data of the benchmark's world: pairs of near neighbours, drawn a few times each."""

from collections.abc import Iterator
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from worker.shapes.bench.alter import alter
from worker.shapes.bench.grammar import Sentence, caption
from worker.shapes.bench.layout import NoScene, realise
from worker.shapes.bench.sampling import Part, canonical, part_of, sample
from worker.shapes.bench.scene import Scene, draw
from worker.shapes.pretrain.data import Batch

IMAGES = 2
"""Of every caption: to find a scene takes too long to do it anew at every step."""


class BenchScenes:
    """A fixed pool of captions, all for training. Captions 2i and 2i+1 differ in one told thing only."""

    def __init__(self, pairs: int, seed: int) -> None:
        rng = np.random.default_rng(seed)
        sentences: list[Sentence] = []
        scenes: list[Scene] = []
        while len(sentences) < 2 * pairs:
            sentence = sample(rng)
            pair = (sentence, alter(sentence, rng))
            if any(part_of(caption(one)) is not Part.TRAIN for one in pair):
                continue
            try:
                drawn = [realise(one, rng) for one in pair for _ in range(IMAGES)]
            except NoScene:
                continue
            sentences += pair
            scenes += drawn
        self.captions = [caption(sentence) for sentence in sentences]
        images = [draw(scenes[start : start + 1000]) for start in range(0, len(scenes), 1000)]
        self._images = torch.cat([part.mul(255).round().byte() for part in images])
        numbers: dict[Sentence, int] = {}
        self._meaning = torch.tensor([numbers.setdefault(canonical(one), len(numbers)) for one in sentences])

    def batches(self, size: int, steps: int, generator: torch.Generator, device: str) -> Iterator[Batch]:
        """`steps` random batches of `size` images, neighbours together, one of the images of each."""
        for _ in range(steps):
            first = 2 * torch.randint(len(self.captions) // 2, (size // 2,), generator=generator)
            rows = torch.cat([first, first + 1])
            which = torch.randint(IMAGES, (len(rows),), generator=generator)
            yield self._batch(rows, which, device)

    def in_order(self, size: int, seed: int, device: str) -> Iterator[Batch]:
        """One image of every caption, in the order of `captions`, in batches of `size`."""
        which = torch.randint(IMAGES, (len(self.captions),), generator=torch.Generator().manual_seed(seed))
        for rows in torch.split(torch.arange(len(self.captions)), size):
            yield self._batch(rows, which[rows], device)

    def _batch(self, rows: Tensor, which: Tensor, device: str) -> Batch:
        images = self._images[IMAGES * rows + which].to(device).float() / 255
        return Batch(images, rows.to(device), self._meaning[rows].to(device))


@lru_cache(maxsize=1)
def bench_scenes(pairs: int, seed: int) -> BenchScenes:
    """The pool of so many pairs, made once for all stages: to find its scenes takes minutes."""
    return BenchScenes(pairs, seed)
