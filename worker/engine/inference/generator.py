"""Image generation from the base model or from checkpoints, with models cached between requests."""

from collections.abc import Iterator, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

from service.contracts.catalog import load_catalog
from service.contracts.generations import GenerationSpec
from worker.engine.image_sampling import SamplingSettings, sample_images
from worker.engine.inference.model_cache import ModelCache
from worker.engine.models import FlowModel, load_model
from worker.engine.models.images import png
from worker.engine.precision import default_device, resolve_dtype
from worker.engine.training.checkpoint import read_manifest


@dataclass(frozen=True)
class GeneratedImage:
    """A generated image. It can be reproduced from its seed, its prompt and the settings in the spec."""

    checkpoint: str
    prompt_index: int
    image_index: int
    seed: int
    png: bytes


class Generator:
    """Generates images on one device, with models from a cache."""

    def __init__(self, device: str | None = None, cache: ModelCache | None = None) -> None:
        self._device, self._cache = default_device(device), cache or ModelCache()

    def generate(self, spec: GenerationSpec, checkpoints: Mapping[str, Path | None]) -> Iterator[GeneratedImage]:
        """Generate the images that `spec` requests with each of the checkpoints.

        checkpoints: the directory of each checkpoint by name, or None for the base model. For every checkpoint, image j
        of a prompt uses the seed `spec.seed + j` and the noise that the diffusers pipeline draws for it. Raises
        ValueError if a checkpoint is damaged or has a different architecture.
        """
        model = self.load(spec.model)
        settings = SamplingSettings.of(spec, model.entry)
        keys = [(p, j) for p in range(len(spec.prompts)) for j in range(spec.num_images)]
        for name, directory in checkpoints.items():
            with model.checkpoint_weights(directory, read_manifest(directory)) if directory else nullcontext():
                for start in range(0, len(keys), settings.batch_size):
                    batch = keys[start : start + settings.batch_size]
                    prompts, seeds = [spec.prompts[p] for p, _ in batch], [spec.seed + j for _, j in batch]
                    images = sample_images(model, prompts, seeds, settings)
                    for (p, j), prompt, seed, image in zip(batch, prompts, seeds, images, strict=True):
                        metadata = {"prompt": prompt, "seed": str(seed), "model": spec.model, "checkpoint": name}
                        yield GeneratedImage(name, p, j, seed, png(image, metadata))

    def load(self, name: str) -> FlowModel:
        """Return the named catalog model. If it is not cached, load it, which may include a download."""
        entry = load_catalog().model(name)

        def load() -> FlowModel:
            return load_model(entry, self._device, resolve_dtype(entry.dtype, self._device))

        size = FlowModel.weight_bytes
        return self._cache.get(FlowModel, entry.model_dump_json(), load, size)  # type: ignore[type-abstract]
