"""The worlds for which weights are trained: vocabulary, scenes, directories, and the weights to start from."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from worker.shapes import WEIGHTS
from worker.shapes.pretrain.data import BasicScenes, Scenes, bench_scenes
from worker.shapes.words import BASIC_VOCABULARY, VOCABULARY

NEW_WORD = 0.02
"""Standard deviation of the initial embeddings for words that are not in the earlier vocabulary."""


@dataclass(frozen=True)
class World:
    description: str
    flux: str
    """Directory name of the FLUX pipeline."""
    clip: str
    """Directory name of the CLIP model."""
    example: str
    """An example caption."""
    vocabulary: tuple[str, ...]
    scenes: Callable[[int, int], Scenes]
    """Function that creates the scenes from a number of pairs and a seed."""
    start: Path | None = None
    """Directory with the `shapes-flux` and `shapes-clip` weights to start from, or None to train from scratch.

    `vocabulary` must start with the vocabulary of these weights.
    """


WORLDS = {
    "shapes": World(
        "the shapes world: 32x32 images of one or two colored shapes",
        "shapes-flux",
        "shapes-clip",
        "a small red circle left of a large blue square on white",
        BASIC_VOCABULARY,
        BasicScenes,
    ),
    "shapes-bench": World(
        "the world of `shapes-bench`: 32x32 images of a few colored shapes or a sign",
        "shapes-flux-2",
        "shapes-clip-2",
        "the letter E in red above a blue square on white",
        VOCABULARY,
        bench_scenes,
        WEIGHTS,
    ),
}


@torch.no_grad()
def initialize(model: nn.Module, earlier: nn.Module) -> None:
    """Copy weights from an earlier model of the same architecture whose vocabulary is a prefix of the new one."""
    known: dict[str, Tensor] = earlier.state_dict()
    for name, weights in model.state_dict().items():
        rows = known[name]
        if weights.shape == rows.shape:
            weights.copy_(rows)
        else:
            weights.normal_(std=NEW_WORD)
            weights[: len(rows)] = rows
