"""Addressed randomness: noise depends on its address only, not on batches, processes or interruptions."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor


def generator(seed: int, *address: int | str) -> torch.Generator:
    """A CPU generator for one address, such as ("sde", step, prompt, i, g).

    torch seeds this generator with 32 bits: among very many addresses a few pairs may coincide, which does no harm.
    """
    text = "\x1f".join([str(seed), *(f"{type(part).__name__}:{part}" for part in address)])
    digest = hashlib.blake2b(text.encode(), digest_size=8).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest, "big") >> 1)


def normal(shape: tuple[int, ...], seed: int, *address: int | str) -> Tensor:
    """Standard normal noise of `shape`, float32 on the CPU: the same values for every device."""
    return torch.randn(shape, generator=generator(seed, *address), dtype=torch.float32)


def permutation(length: int, seed: int, *address: int | str) -> list[int]:
    """A random order of `range(length)`."""
    order: list[int] = torch.randperm(length, generator=generator(seed, *address)).tolist()
    return order


@dataclass(frozen=True)
class StepNoise:
    """The noise of one training step's rollout. Prompt 0 is prompt `first_prompt` of the step.

    packed: given a function from a shape to noise, returns packed latents [1, tokens, channels] of it. shape: [tokens,
    channels].
    """

    seed: int
    step: int
    packed: Callable[[Callable[[tuple[int, ...]], Tensor]], Tensor]
    shape: tuple[int, ...]
    first_prompt: int = 0

    def initial(self, prompt: int, sample: int | None = None) -> Tensor:
        """Initial noise [1, tokens, channels] of a prompt's group, or of one sample of it."""
        address = (self.first_prompt + prompt,) if sample is None else (self.first_prompt + prompt, sample)
        return self.packed(lambda shape: normal(shape, self.seed, "initial", self.step, *address))

    def sde(self, prompt: int, sde_step: int, sample: int) -> Tensor:
        """Noise [tokens, channels] of one sample's SDE step, on the CPU."""
        return normal(self.shape, self.seed, "sde", self.step, self.first_prompt + prompt, sde_step, sample)
