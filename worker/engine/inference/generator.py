"""Images from the base model or from checkpoints, with models kept warm between requests."""

from collections.abc import Iterator, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

from service.contracts.catalog import load_catalog
from service.contracts.generations import GenerationSpec
from worker.engine.inference.model_cache import Warm
from worker.engine.models import FlowModel, load_model
from worker.engine.models.images import png
from worker.engine.sampling import Manner, draw, fastest_device, precision_on
from worker.engine.training.checkpoint import read_manifest


@dataclass(frozen=True)
class GeneratedImage:
    """One image of a generation. `seed` alone, with the prompt and the numbers of the spec, makes it again."""

    checkpoint: str
    prompt_index: int
    image_index: int
    seed: int
    png: bytes


class Generator:
    """Draws images on one device, by models that stay loaded while `warm` keeps them."""

    def __init__(self, device: str | None = None, warm: Warm | None = None) -> None:
        self._device = fastest_device(device)
        self._warm = warm or Warm()

    def generate(
        self,
        spec: GenerationSpec,
        checkpoints: Mapping[str, Path | None],
    ) -> Iterator[GeneratedImage]:
        """Draw every image of `spec`, checkpoint by checkpoint; `checkpoints` gives each one's directory, base None.

        Image j of a prompt has seed `spec.seed + j` and the noise that the diffusers pipeline draws for it, for every
        checkpoint alike. Raises ValueError for a checkpoint that is damaged or of another architecture.
        """
        model = self.load(spec.model)
        manner = Manner.of(spec, model.entry)
        places = [(p, j) for p in range(len(spec.prompts)) for j in range(spec.num_images)]
        for name, directory in checkpoints.items():
            weights = model.checkpoint_weights(directory, read_manifest(directory)) if directory else nullcontext()
            with weights:
                for start in range(0, len(places), manner.batch_size):
                    batch = places[start : start + manner.batch_size]
                    prompts, seeds = [spec.prompts[p] for p, _ in batch], [spec.seed + j for _, j in batch]
                    for (p, j), image in zip(batch, draw(model, prompts, seeds, manner), strict=True):
                        seed = spec.seed + j
                        metadata = {
                            "prompt": spec.prompts[p],
                            "seed": str(seed),
                            "model": spec.model,
                            "checkpoint": name,
                        }
                        yield GeneratedImage(name, p, j, seed, png(image, metadata))

    def load(self, name: str) -> FlowModel:
        """The catalog's model, loaded unless it is kept; it may have to be downloaded first."""
        entry = load_catalog().model(name)

        def load() -> FlowModel:
            return load_model(entry, self._device, precision_on(self._device, entry))

        size = FlowModel.weight_bytes
        return self._warm.get(FlowModel, entry.model_dump_json(), load, size)  # type: ignore[type-abstract]
