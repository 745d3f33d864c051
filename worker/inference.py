"""Pictures from the base model or from checkpoints, with models kept warm between requests."""

from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from service.contracts.catalog import load_catalog
from service.contracts.generations import GenerationSpec
from service.contracts.schedule import sigma_nodes
from worker.grpo.rollout import ode_trajectory
from worker.models import FlowModel, load_model
from worker.models.base import PictureSize
from worker.models.pictures import png
from worker.training.checkpoint import read_manifest

_BATCH_PIXELS = 2**22
"""Pixels drawn in one batch: eight pictures of 720×720."""
_MOST_PICTURES = 64


@dataclass(frozen=True)
class GeneratedImage:
    """One picture of a generation. `seed` alone, with the prompt and the numbers of the spec, makes it again."""

    checkpoint: str
    prompt_index: int
    image_index: int
    seed: int
    png: bytes


class Generator:
    """Draws pictures on one device. Keeps the most recently used model loaded, and the others while they fit."""

    def __init__(self, device: str | None = None, cache_bytes: int = 32 * 2**30) -> None:
        self._device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        self._cache_bytes = cache_bytes
        self._models: OrderedDict[str, FlowModel] = OrderedDict()

    def generate(
        self,
        spec: GenerationSpec,
        checkpoints: Mapping[str, Path | None],
    ) -> Iterator[GeneratedImage]:
        """Draw every picture of `spec`, checkpoint by checkpoint; `checkpoints` gives each one's directory, base None.

        Picture j of a prompt has seed `spec.seed + j` and the noise that the diffusers pipeline draws for it, for every
        checkpoint alike. Raises ValueError for a checkpoint that is damaged or of another architecture.
        """
        model = self._model(spec.model)
        entry = model.entry
        size = PictureSize(spec.width or entry.width, spec.height or entry.height)
        sigmas = sigma_nodes(spec.steps or entry.steps, entry.shift)
        guidance = entry.guidance if spec.guidance is None else spec.guidance
        places = [(p, j) for p in range(len(spec.prompts)) for j in range(spec.num_images)]
        batch_size = max(1, min(_MOST_PICTURES, _BATCH_PIXELS // (size.width * size.height)))
        for name, directory in checkpoints.items():
            weights = model.checkpoint_weights(directory, read_manifest(directory)) if directory else nullcontext()
            with weights:
                for start in range(0, len(places), batch_size):
                    batch = places[start : start + batch_size]
                    for (p, j), picture in zip(
                        batch, self._draw(model, spec, batch, sigmas, size, guidance), strict=True
                    ):
                        seed = spec.seed + j
                        metadata = {
                            "prompt": spec.prompts[p],
                            "seed": str(seed),
                            "model": spec.model,
                            "checkpoint": name,
                        }
                        yield GeneratedImage(name, p, j, seed, png(picture, metadata))

    @torch.no_grad()
    def _draw(
        self,
        model: FlowModel,
        spec: GenerationSpec,
        batch: Sequence[tuple[int, int]],
        sigmas: Sequence[float],
        size: PictureSize,
        guidance: float,
    ) -> Tensor:
        conditioning = model.encode([spec.prompts[p] for p, _ in batch])
        noise = torch.cat([model.noise(partial(_noise, spec.seed + j), size) for _, j in batch])
        trajectory = ode_trajectory(model.velocity(conditioning, size, guidance), noise, sigmas, len(batch))
        return model.decode(trajectory.end, size)

    def _model(self, name: str) -> FlowModel:
        if name not in self._models:
            dtype = torch.bfloat16 if self._device.type == "cuda" else torch.float32
            loaded = load_model(load_catalog().model(name), self._device, dtype)
            self._models[name] = loaded
            while len(self._models) > 1 and sum(map(_bytes, self._models.values())) > self._cache_bytes:
                self._models.popitem(last=False)
        self._models.move_to_end(name)
        return self._models[name]


def _noise(seed: int, shape: tuple[int, ...]) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float32)


def _bytes(model: FlowModel) -> int:
    return sum(parameter.numel() * parameter.element_size() for parameter in model.transformer.parameters())
