"""Drawing images from seeds: the same prompt, seed and numbers give the same image, whoever asks for it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from service.contracts.catalog import ModelEntry
from service.contracts.evaluations import EvaluationSpec
from service.contracts.generations import GenerationSpec
from service.contracts.schedule import sigma_nodes
from worker.engine.grpo.rollout import ode_trajectory
from worker.engine.models.base import FlowModel, ImageSize

_BATCH_PIXELS = 2**22
"""Pixels drawn in one batch: eight images of 720×720."""
_MOST_IMAGES = 64


@dataclass(frozen=True)
class Manner:
    """How images are drawn: size, schedule and guidance."""

    size: ImageSize
    sigmas: Sequence[float]
    guidance: float

    @classmethod
    def of(cls, spec: GenerationSpec | EvaluationSpec, entry: ModelEntry) -> "Manner":
        """What `spec` says, and of what it leaves unsaid the model's own."""
        size = ImageSize(spec.width or entry.width, spec.height or entry.height)
        return cls(
            size,
            sigma_nodes(spec.steps or entry.steps, entry.own_shift(size.width, size.height)),
            entry.guidance if spec.guidance is None else spec.guidance,
        )

    @property
    def batch_size(self) -> int:
        """Images drawn at once."""
        return max(1, min(_MOST_IMAGES, _BATCH_PIXELS // (self.size.width * self.size.height)))


@torch.no_grad()
def draw(
    model: FlowModel,
    prompts: Sequence[str],
    seeds: Sequence[int],
    manner: Manner,
    check: Callable[[], None] = lambda: None,
) -> Tensor:
    """Images [n, 3, height, width] in 0..1 of n prompts, each with the noise that the diffusers pipeline draws.

    `check` is called before every evaluation of the network, and may raise to abandon the batch.
    """
    velocity = model.velocity(model.encode(prompts), manner.size, manner.guidance)

    def checked(latents: Tensor, sigma: Tensor, rows: list[int]) -> Tensor:
        check()
        return velocity(latents, sigma, rows)

    noise = torch.cat([model.noise(partial(_noise, seed), manner.size) for seed in seeds])
    return model.decode(ode_trajectory(checked, noise, manner.sigmas, len(noise)).end, manner.size)


def fastest_device(name: str | None) -> torch.device:
    """The named device, else a GPU if there is one."""
    return torch.device(name or ("cuda" if torch.cuda.is_available() else "cpu"))


def precision_on(device: torch.device, entry: ModelEntry) -> torch.dtype:
    """The number format that a model computes in where nothing else is asked for."""
    fastest = torch.bfloat16 if device.type == "cuda" else torch.float32
    return {"auto": fastest, "float32": torch.float32, "bfloat16": torch.bfloat16}[entry.dtype]


def _noise(seed: int, shape: tuple[int, ...]) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float32)
