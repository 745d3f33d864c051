"""Addressed randomness: noise depends only on the seed and its address, not on batches, processes or interruptions."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor


def generator(seed: int, *address: int | str) -> torch.Generator:
    """Return a CPU generator for an address such as ("sde", step, prompt, i, g).

    torch seeds this generator with 32 bits. Among very many addresses, a few pairs may share a seed, which is harmless.
    """
    text = "\x1f".join([str(seed), *(f"{type(part).__name__}:{part}" for part in address)])
    digest = hashlib.blake2b(text.encode(), digest_size=8).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest, "big") >> 1)


def normal(shape: tuple[int, ...], seed: int, *address: int | str) -> Tensor:
    """Return standard normal noise of `shape` in float32, drawn on the CPU so that it is the same for every device."""
    return torch.randn(shape, generator=generator(seed, *address), dtype=torch.float32)


def permutation(length: int, seed: int, *address: int | str) -> list[int]:
    """Return a random permutation of `range(length)`."""
    order: list[int] = torch.randperm(length, generator=generator(seed, *address)).tolist()
    return order


@dataclass(frozen=True)
class StepNoise:
    """The noise for the rollout of one training step.

    packed: converts a function that draws noise of a given shape to packed latents [1, tokens, channels]. shape:
    [tokens, channels]. first_prompt: the index within the step of the prompt that has index 0 here.
    """

    seed: int
    step: int
    packed: Callable[[Callable[[tuple[int, ...]], Tensor]], Tensor]
    shape: tuple[int, ...]
    first_prompt: int = 0

    def initial(self, prompt: int, sample: int | None = None) -> Tensor:
        """Return the initial noise [1, tokens, channels] for a prompt's group, or only for the given `sample`."""
        address = (self.first_prompt + prompt,) if sample is None else (self.first_prompt + prompt, sample)
        return self.packed(lambda shape: normal(shape, self.seed, "initial", self.step, *address))

    def sde(self, prompt: int, sde_step: int, sample: int) -> Tensor:
        """Return the noise [tokens, channels] for one sample's SDE step, on the CPU."""
        return normal(self.shape, self.seed, "sde", self.step, self.first_prompt + prompt, sde_step, sample)
