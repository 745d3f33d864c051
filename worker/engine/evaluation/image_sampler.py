"""Sampling of an evaluation's images, which are scored by rewards and written to files with their official names."""

import hashlib
from collections.abc import Callable, Collection, Iterator
from contextlib import ExitStack
from pathlib import Path

import torch
from torch import Tensor

from service.contracts.benchmarks.data import BenchmarkPrompt
from service.contracts.evaluations import IMAGES, EvaluationJob, ImageGenerated, ImageName
from worker.engine.image_sampling import SamplingSettings, sample_images
from worker.engine.models.base import FlowModel
from worker.engine.models.images import png
from worker.engine.rewards.base import Reward, score_or_missing
from worker.engine.training.checkpoint import read_manifest
from worker.engine.training.event_log import finite

ImageKey = tuple[int, int]
"""The index of an image's prompt in the benchmark, and the index of the image within that prompt."""


class ImageSampler:
    """Samples the missing images of an evaluation into `directory/images`."""

    def __init__(
        self, job: EvaluationJob, model: FlowModel, rewards: dict[str, Reward], directory: Path, checkpoint: Path | None
    ) -> None:
        self._job, self._model, self._rewards = job, model, rewards
        self._checkpoint = checkpoint
        self._images = directory / IMAGES
        self._settings = SamplingSettings.of(job.spec, model.entry)

    def sample(self, wanted: Collection[ImageKey], check: Callable[[], None]) -> Iterator[ImageGenerated]:
        """Sample the wanted images and yield each image's event once its file is complete.

        check: called before every network evaluation; may raise to stop sampling. Raises ValueError if the checkpoint
        is damaged or has a different architecture.
        """
        self._images.mkdir(exist_ok=True)
        with ExitStack() as stack:
            if self._checkpoint is not None:
                manifest = read_manifest(self._checkpoint)
                stack.enter_context(self._model.checkpoint_weights(self._checkpoint, manifest))
            for batch in self._batches(wanted):
                prompts = [prompt.text for prompt, _ in batch]
                seeds = [self._job.spec.seed + image_index for _, image_index in batch]
                images = sample_images(self._model, prompts, seeds, self._settings, check)
                values = self._values(images, prompts)
                for row, (prompt, image_index) in enumerate(batch):
                    if (prompt.index, image_index) in wanted:
                        yield self._write(images[row], prompt, image_index, values[row])

    def _batches(self, wanted: Collection[ImageKey]) -> Iterator[list[tuple[BenchmarkPrompt, int]]]:
        """Yield every batch that contains a wanted image.

        Batches are always complete, because the last bits of an image depend on its batch.
        """
        keys = [(prompt, j) for prompt in self._job.benchmark.prompts for j in range(self._job.spec.num_images)]
        for start in range(0, len(keys), self._settings.batch_size):
            batch = keys[start : start + self._settings.batch_size]
            if any((prompt.index, image_index) in wanted for prompt, image_index in batch):
                yield batch

    def _values(self, images: Tensor, prompts: list[str]) -> list[dict[str, float | None]]:
        """Compute the rewards of each image, with None where a reward failed or the image is not finite."""
        finite_rows = images.isfinite().flatten(1).all(dim=1).cpu()
        values: list[dict[str, float | None]] = [{} for _ in prompts]
        for name, reward in self._rewards.items():
            scored, _ = score_or_missing(reward, name, images, prompts)
            for row, value in enumerate(torch.where(finite_rows, scored, torch.nan).tolist()):
                values[row][name] = finite(value)
        return values

    def _write(
        self, image: Tensor, prompt: BenchmarkPrompt, image_index: int, rewards: dict[str, float | None]
    ) -> ImageGenerated:
        spec, name = self._job.spec, ImageName(index=prompt.index, image_index=image_index)
        metadata = {
            "prompt": prompt.text,
            "seed": str(spec.seed + image_index),
            "model": spec.model,
            "checkpoint": str(spec.checkpoint),
            "benchmark": self._job.benchmark.name,
            "index": str(prompt.index),
            "image_index": str(image_index),
        }
        data = png(image, metadata)
        target = self._images / name.file
        temporary = target.with_suffix(".part")
        temporary.write_bytes(data)
        temporary.replace(target)
        return ImageGenerated(
            index=prompt.index,
            image_index=image_index,
            seed=spec.seed + image_index,
            rewards=rewards,
            sha256=hashlib.sha256(data).hexdigest(),
            size=len(data),
        )
