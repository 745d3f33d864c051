"""The worlds that weights are trained for: their words, scenes and directories, and the weights they start from."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from worker.shapes import WEIGHTS
from worker.shapes.pretrain.data import BasicScenes, Scenes, bench_scenes
from worker.shapes.words import BASIC_VOCABULARY, VOCABULARY

NEW_WORD = 0.02
"""Standard deviation of the initial embeddings of words that the earlier weights do not know."""


@dataclass(frozen=True)
class World:
    description: str
    flux: str
    """Name of the pipeline's directory."""
    clip: str
    """Name of the CLIP's directory."""
    example: str
    """A caption."""
    vocabulary: tuple[str, ...]
    scenes: Callable[[int, int], Scenes]
    """From a number of pairs and a seed."""
    start: Path | None = None
    """Directory of `shapes-flux` and `shapes-clip`, from which training starts; their words come first."""


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
    """Copy the weights of an earlier model of the same architecture that knows only the first words."""
    known: dict[str, Tensor] = earlier.state_dict()
    for name, weights in model.state_dict().items():
        rows = known[name]
        if weights.shape == rows.shape:
            weights.copy_(rows)
        else:
            weights.normal_(std=NEW_WORD)
            weights[: len(rows)] = rows
