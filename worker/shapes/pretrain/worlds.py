"""The worlds that weights are trained for: their words, scenes and names, and the weights they start from."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor, nn

from worker.shapes import WEIGHTS
from worker.shapes.bench import words as bench_words
from worker.shapes.grammar import VOCABULARY
from worker.shapes.pretrain.bench_data import bench_scenes
from worker.shapes.pretrain.data import Batch, TrainingScenes

NEW_WORD = 0.02
"""Standard deviation of the embeddings of words that the earlier weights do not know."""


class Scenes(Protocol):
    """A fixed pool of captions and images of them. Captions 2i and 2i+1 are near neighbours."""

    captions: list[str]

    def batches(self, size: int, steps: int, generator: torch.Generator, device: str) -> Iterator[Batch]:
        """`steps` random batches of `size` images, neighbours together."""

    def in_order(self, size: int, seed: int, device: str) -> Iterator[Batch]:
        """One image of every caption, in the order of `captions`, in batches of `size`."""


@dataclass(frozen=True)
class World:
    flux: str
    """Name of the pipeline's directory."""
    clip: str
    """Name of the CLIP's directory."""
    vocabulary: tuple[str, ...]
    scenes: Callable[[int, int], Scenes]
    """From a number of pairs and a seed."""
    start: Path | None = None
    """Directory of `shapes-flux` and `shapes-clip` that training starts from; their words come first."""


WORLDS = {
    "shapes": World("shapes-flux", "shapes-clip", VOCABULARY, TrainingScenes),
    "shapes-bench": World("shapes-flux-2", "shapes-clip-2", bench_words.VOCABULARY, bench_scenes, WEIGHTS),
}


@torch.no_grad()
def take_over(model: nn.Module, earlier: nn.Module) -> None:
    """Copy the weights of an earlier model of the same form, which knows only the first of the words."""
    known: dict[str, Tensor] = earlier.state_dict()
    for name, weights in model.state_dict().items():
        rows = known[name]
        if weights.shape == rows.shape:
            weights.copy_(rows)
        else:
            weights.normal_(std=NEW_WORD)
            weights[: len(rows)] = rows
