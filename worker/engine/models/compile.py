"""Compilation of the repeated blocks of a diffusers transformer, which take nearly all of an evaluation's time.

All blocks of the same class share one compilation, which is much faster than compiling the whole transformer.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from worker.engine.grpo.solvers import Velocity, filled


class NoCompiler(RuntimeError):
    """Raised if torch.compile does not work on this machine."""


def check_compiler(device: torch.device) -> None:
    """Check that torch.compile works on `device` by compiling a small function. Raises NoCompiler if it does not."""

    def function(x: Tensor) -> Tensor:
        return x.sin() + 1

    sample = torch.ones(8, device=device)  # outside `try`: a full or broken device is not a compiler error
    try:
        torch.compile(function, dynamic=False, fullgraph=True)(sample)
    except RuntimeError as error:
        raise NoCompiler(f"torch.compile does not work on {device}: {error}") from error


@contextmanager
def compiled(transformer: Any, velocity: Velocity, rows: int) -> Iterator[Velocity]:
    """Compile the blocks of `transformer` within the context and yield a faster `velocity`.

    Batches are padded to `rows`, because every new shape would compile the blocks again.
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
