"""The adapter between the engine and a diffusers model: encode prompts, velocity, decode, trainable weights."""

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh

from service.contracts.catalog import ModelEntry
from service.contracts.jobs import CheckpointManifest
from worker.engine.grpo.rollout import Velocity
from worker.engine.models import sharding


@dataclass(frozen=True)
class Conditioning:
    """Encoded prompts, one row per prompt. Pooled is [prompts, width], sequence [prompts, text tokens, width]."""

    pooled: Tensor
    sequence: Tensor

    def rows(self, indices: Sequence[int]) -> "Conditioning":
        """The rows `indices`, repeated and ordered as given."""
        index = torch.tensor(indices, device=self.pooled.device)
        return Conditioning(self.pooled[index], self.sequence[index])


@dataclass(frozen=True)
class ImageSize:
    """Width and height in pixels."""

    width: int
    height: int


class FlowModel(ABC):
    """A flow text-to-image model. Latents are packed, [images, tokens, channels], and never below float32."""

    entry: ModelEntry
    device: torch.device
    dtype: torch.dtype
    transformer: Any
    """The diffusers model; its classes carry no types."""

    @classmethod
    @abstractmethod
    def check(cls, entry: ModelEntry) -> None:
        """Raise ValueError unless the entry's source is whole and of the family; takes no device and little time."""

    @classmethod
    @abstractmethod
    def load(cls, entry: ModelEntry, device: torch.device, dtype: torch.dtype) -> "FlowModel":
        """Load from the entry's source, frozen and in eval mode."""

    @abstractmethod
    def encode(self, prompts: Sequence[str]) -> Conditioning:
        """Encode prompts once; raises ValueError naming a word the tokenizer does not know."""

    @abstractmethod
    def check_prompts(self, prompts: Sequence[str]) -> None:
        """Raise ValueError naming the first word that a model of a closed vocabulary does not know."""

    @abstractmethod
    def encoding_identity(self) -> str:
        """Hash of what an encoding depends on beside the prompt: encoders, tokenizers, length and dtype."""

    @abstractmethod
    def place_encoders(self, device: torch.device) -> None:
        """Move what encodes prompts; away from the model's own device it does nothing but wait."""

    @abstractmethod
    def latent_shape(self, size: ImageSize) -> tuple[int, int, int]:
        """Unpacked latent shape (channels, height, width): noise is drawn in it, as the diffusers pipeline does."""

    @abstractmethod
    def pack(self, latents: Tensor) -> Tensor:
        """[images, channels, height, width] → [images, tokens, packed channels]."""

    @abstractmethod
    def predict(
        self, latents: Tensor, sigma: Tensor, conditioning: Conditioning, size: ImageSize, guidance: float
    ) -> Tensor:
        """The velocity at `latents` and `sigma` [images], in the latents' dtype. Rows of `conditioning` match."""

    @abstractmethod
    def decode(self, latents: Tensor, size: ImageSize) -> Tensor:
        """Packed clean latents → images [images, 3, height, width] in 0..1."""

    @abstractmethod
    @contextmanager
    def checkpoint_weights(self, directory: Path, manifest: CheckpointManifest) -> Iterator[None]:
        """Within: sample with a checkpoint's weights. Afterwards: the base, bit for bit. Not while training."""
        yield

    @abstractmethod
    def save_trained(self, directory: Path | None) -> None:
        """Write the trained weights in the family's ordinary diffusers format; None: for another process to write."""

    @abstractmethod
    def load_trained(self, directory: Path) -> None:
        """Load what `save_trained` wrote; ValueError where names or shapes do not fit."""

    @property
    def latent_dtype(self) -> torch.dtype:
        """float32, or float64 for a float64 model: trajectories are never kept in bfloat16."""
        return torch.float64 if self.dtype == torch.float64 else torch.float32

    def noise(self, draw: Callable[[tuple[int, ...]], Tensor], size: ImageSize) -> Tensor:
        """Packed initial noise of one image, drawn by `draw(shape)` with shape [1, channels, height, width]."""
        return self.pack(draw((1, *self.latent_shape(size)))).to(self.device, self.latent_dtype)

    def packed_shape(self, size: ImageSize) -> tuple[int, ...]:
        """[tokens, channels] of one image's packed latents."""
        packed = self.pack(torch.empty(1, *self.latent_shape(size), device="meta"))
        return tuple(packed.shape[1:])

    def velocity(self, conditioning: Conditioning, size: ImageSize, guidance: float) -> Velocity:
        """The model as the rollout wants it: prompts by index into `conditioning`."""

        def evaluate(latents: Tensor, sigma: Tensor, prompts: list[int]) -> Tensor:
            return self.predict(latents, sigma, conditioning.rows(prompts), size, guidance)

        return evaluate

    def architecture(self) -> str:
        """Hash of the transformer's configuration: trained weights fit only the same architecture."""
        config: dict[str, Any] = {k: v for k, v in dict(self.transformer.config).items() if not k.startswith("_")}
        return hashlib.sha256(json.dumps(config, sort_keys=True, default=str).encode()).hexdigest()[:16]

    def weight_bytes(self) -> int:
        """Bytes of its weights, with encoders and whatever else is kept loaded."""
        weights = (*self.transformer.parameters(), *self.transformer.buffers())
        return sum(weight.numel() * weight.element_size() for weight in weights)

    def train_all(self, mesh: DeviceMesh | None = None) -> list[nn.Parameter]:
        """Make every transformer weight trainable, sharded over the processes of `mesh`."""
        self.transformer.requires_grad_(True)
        if mesh is not None:
            sharding.shard(self.transformer, mesh, self.dtype)
        return list(self.transformer.parameters())

    @contextmanager
    def gathered(self) -> Iterator[None]:
        """Within: weights that are sharded are whole in every process, so that none waits for another to sample."""
        own = self.transformer
        if sharding.is_sharded(own):
            self.transformer = sharding.unsharded(own, self.dtype)
        try:
            yield
        finally:
            self.transformer = own

    @abstractmethod
    def train_lora(self, rank: int, alpha: float, seed: int) -> list[nn.Parameter]:
        """Attach a LoRA whose initial weights depend on `seed` alone; its output starts at zero."""

    @abstractmethod
    @contextmanager
    def sampling_weights(self, faithful: bool = False) -> Iterator[None]:
        """Within: the policy in its fastest form for sampling. The weights afterwards are exactly those before.

        In bfloat16 the fastest form rounds small updates away, which continuations may bear; `faithful` forbids that,
        for images that measure or show the policy.
        """
        yield

    @abstractmethod
    @contextmanager
    def reference_weights(self) -> Iterator[None]:
        """Within: the frozen base, which a LoRA leaves as it is. RuntimeError where all weights are trained."""
        yield
