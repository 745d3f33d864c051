"""Seeded image sampling: the same prompt, seed and settings produce the same image in every job."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from service.contracts.catalog import ModelEntry
from service.contracts.evaluations import EvaluationSpec
from service.contracts.generations import GenerationSpec
from service.contracts.schedule import sigma_nodes
from worker.engine.grpo.solvers import ode_trajectory
from worker.engine.models.base import FlowModel, ImageSize

_BATCH_PIXELS = 2**22
"""Maximum pixels per batch, the size of eight 720×720 images."""
_MAX_IMAGES = 64


@dataclass(frozen=True)
class SamplingSettings:
    """Image size, noise schedule and guidance scale."""

    size: ImageSize
    sigmas: Sequence[float]
    guidance: float

    @classmethod
    def of(cls, spec: GenerationSpec | EvaluationSpec, entry: ModelEntry) -> "SamplingSettings":
        """Return the settings in `spec`, with the model's defaults for omitted fields."""
        size = ImageSize(spec.width or entry.width, spec.height or entry.height)
        return cls(
            size,
            sigma_nodes(spec.steps or entry.steps, entry.own_shift(size.width, size.height)),
            entry.guidance if spec.guidance is None else spec.guidance,
        )

    @property
    def batch_size(self) -> int:
        """The number of images per batch."""
        return max(1, min(_MAX_IMAGES, _BATCH_PIXELS // (self.size.width * self.size.height)))


@torch.no_grad()
def sample_images(
    model: FlowModel,
    prompts: Sequence[str],
    seeds: Sequence[int],
    settings: SamplingSettings,
    check: Callable[[], None] = lambda: None,
) -> Tensor:
    """Sample images [n, 3, height, width] in 0..1 for n prompts, with the same noise as the diffusers pipeline.

    check: called before every network evaluation; may raise to stop sampling.
    """
    velocity = model.velocity(model.encode(prompts), settings.size, settings.guidance)

    def checked(latents: Tensor, sigma: Tensor, rows: list[int]) -> Tensor:
        check()
        return velocity(latents, sigma, rows)

    noise = torch.cat([model.noise(partial(_noise, seed), settings.size) for seed in seeds])
    return model.decode(ode_trajectory(checked, noise, settings.sigmas, len(noise)).end, settings.size)


def _noise(seed: int, shape: tuple[int, ...]) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float32)
