"""The repeated blocks of a diffusers transformer, compiled: where nearly all of an evaluation is spent.

Blocks of a kind are compiled once, for all of them, which takes a fraction of the time of the whole transformer.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from worker.engine.grpo.rollout import Velocity, filled


class NoCompiler(RuntimeError):
    """torch.compile does not work on this machine."""


def check_compiler(device: torch.device) -> None:
    """Compile a small function for `device`, before models are loaded. Raises NoCompiler."""

    def function(x: Tensor) -> Tensor:
        return x.sin() + 1

    sample = torch.ones(8, device=device)  # outside the try: a full or broken device is not a compiler error
    try:
        torch.compile(function, dynamic=False, fullgraph=True)(sample)
    except RuntimeError as error:
        raise NoCompiler(f"torch.compile does not work on {device}: {error}") from error


@contextmanager
def compiled(transformer: Any, velocity: Velocity, rows: int) -> Iterator[Velocity]:
    """Within: `velocity` with compiled blocks of `transformer`.

    Batches are filled up to `rows`, for blocks are compiled again for each shape.
    """
    places = [
        (blocks, index, block)
        for blocks in transformer.modules()
        if isinstance(blocks, nn.ModuleList)
        for index, block in enumerate(blocks)
        if type(block).__name__ in transformer._no_split_modules
    ]
    try:
        for blocks, index, block in places:
            faster: Any = torch.compile(block, dynamic=False, fullgraph=True)
            blocks[index] = faster
        yield lambda latents, sigma, prompts: filled(velocity, latents, sigma, prompts, rows)
    finally:
        for blocks, index, block in places:
            blocks[index] = block
