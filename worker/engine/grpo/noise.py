"""Addressed randomness: every draw has an address, so batching, process count and resuming cannot change it."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor


def generator(seed: int, *address: int | str) -> torch.Generator:
    """A CPU generator for one address, such as ("sde", step, slot, i, g). Different addresses draw differently.

    (torch seeds this generator with 32 bits: among very many addresses a rare pair may coincide, which does no harm.)
    """
    text = "\x1f".join([str(seed), *(f"{type(part).__name__}:{part}" for part in address)])
    digest = hashlib.blake2b(text.encode(), digest_size=8).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest, "big") >> 1)


def normal(shape: tuple[int, ...], seed: int, *address: int | str) -> Tensor:
    """Standard normal noise of `shape`, float32 on the CPU: the same values wherever it is then sent."""
    return torch.randn(shape, generator=generator(seed, *address), dtype=torch.float32)


def permutation(length: int, seed: int, *address: int | str) -> list[int]:
    """A random order of `range(length)`."""
    order: list[int] = torch.randperm(length, generator=generator(seed, *address)).tolist()
    return order


@dataclass(frozen=True)
class StepNoise:
    """The noises of one training step's rollout. Prompt 0 here is prompt `first_prompt` of all processes.

    packed: makes latents [1, tokens, channels] of a draw for the model's unpacked shape.
    """

    seed: int
    step: int
    packed: Callable[[Callable[[tuple[int, ...]], Tensor]], Tensor]
    shape: tuple[int, ...]
    """[tokens, channels]"""
    first_prompt: int = 0

    def initial(self, prompt: int, sample: int | None = None) -> Tensor:
        """Noise [1, tokens, channels] that a prompt's group, or one sample of it, begins with."""
        address = (self.first_prompt + prompt,) if sample is None else (self.first_prompt + prompt, sample)
        return self.packed(lambda shape: normal(shape, self.seed, "initial", self.step, *address))

    def sde(self, prompt: int, sde_step: int, sample: int) -> Tensor:
        """Noise [tokens, channels] of one sample's SDE step, on the CPU."""
        return normal(self.shape, self.seed, "sde", self.step, self.first_prompt + prompt, sde_step, sample)
