"""The adapter between the engine and a diffusers pipeline. Each model family implements the abstract methods."""

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Self

import torch
from diffusers import AutoencoderKL
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh

from service.contracts.attempt_files import CheckpointManifest
from service.contracts.catalog import ModelEntry
from worker.engine.grpo.solvers import Velocity
from worker.engine.models import lora, sharding, weights
from worker.engine.models.sources import fetch, fingerprint

_ENCODE_BATCH = 8
"""Prompts per encoder batch. Shorter batches are padded to this size, so that embeddings do not depend on the batch."""


@dataclass(frozen=True)
class Conditioning:
    """Encoded prompts, one row per prompt: `pooled` [prompts, width] and `sequence` [prompts, text tokens, width]."""

    pooled: Tensor
    sequence: Tensor

    def rows(self, indices: Sequence[int]) -> "Conditioning":
        """Return the rows with the given indices, in the given order. Indices may repeat."""
        index = torch.tensor(indices, device=self.pooled.device)
        return Conditioning(self.pooled[index], self.sequence[index])


@dataclass(frozen=True)
class ImageSize:
    """Width and height in pixels."""

    width: int
    height: int


class FlowModel(ABC):
    """A text-to-image flow model in the diffusers directory layout.

    Latents are packed, [images, tokens, channels], in float32 or float64. Trained weights are saved as a LoRA in the
    diffusers format or as a transformer directory.
    """

    pipeline_class: ClassVar[Any]
    transformer_class: ClassVar[Any]
    encoders: ClassVar[Mapping[str, Any]]
    """Text encoder classes by component name in the pipeline."""
    optional: ClassVar[frozenset[str]] = frozenset()
    """Names of the encoders that a pipeline may omit."""

    def __init__(self, pipeline: Any, entry: ModelEntry, device: torch.device, dtype: torch.dtype) -> None:
        self.entry, self.device, self.dtype = entry, device, dtype
        self._pipeline = pipeline
        self.transformer: Any = pipeline.transformer
        self._merger: lora.Merger | None = None
        self._mixed = False
        """Whether the weights have a higher precision than the forward passes."""

    @classmethod
    def check(cls, entry: ModelEntry) -> list[str]:
        """Check the pipeline files of a catalog entry and return the names of the components found.

        The check is fast and uses no device. Raises ValueError if files are missing or belong to another model family.
        """
        parts = {"transformer": cls.transformer_class, "vae": AutoencoderKL, **cls.encoders}
        return weights.check_pipeline(fetch(entry.source, cls.pipeline_class), cls.pipeline_class, parts, cls.optional)

    @classmethod
    def load(cls, entry: ModelEntry, device: torch.device, dtype: torch.dtype) -> Self:
        """Load the model of a catalog entry, with frozen weights and in eval mode.

        Raises ValueError if files are missing or belong to another model family.
        """
        present = cls.check(entry)
        directory = fetch(entry.source, cls.pipeline_class)
        given: dict[str, Any] = {}
        for name, encoder in cls.encoders.items():
            if name in present:
                given[name] = _load_encoder(encoder, directory / name, dtype)
            else:
                given |= {name: None, _tokenizer(name): None}
        pipeline = cls.pipeline_class.from_pretrained(directory, dtype=dtype, use_safetensors=True, **given)
        for name in present:  # after all files are read, so that errors occur before the device is used
            getattr(pipeline, name).requires_grad_(False).eval().to(device)
        return cls(pipeline, entry, device, dtype)

    @abstractmethod
    def _encode(self, prompts: list[str]) -> tuple[Tensor, Tensor]:
        """Encode one batch with the pipeline and return the pooled and the sequence embeddings."""

    @abstractmethod
    def latent_shape(self, size: ImageSize) -> tuple[int, int, int]:
        """Return the unpacked latent shape (channels, height, width), in which the diffusers pipeline generates noise.

        Raises ValueError if the model does not support the image size.
        """

    @abstractmethod
    def pack(self, latents: Tensor) -> Tensor:
        """Pack latents [images, channels, height, width] into [images, tokens, packed channels]."""

    @abstractmethod
    def unpack(self, latents: Tensor, size: ImageSize) -> Tensor:
        """Invert `pack`: turn packed latents into [images, channels, height, width]."""

    @abstractmethod
    def predict(
        self, latents: Tensor, sigma: Tensor, conditioning: Conditioning, size: ImageSize, guidance: float
    ) -> Tensor:
        """Compute the velocity at `latents` and `sigma` [images], in the dtype of `latents`.

        `conditioning` has one row per image.
        """

    @torch.no_grad()
    def encode(self, prompts: Sequence[str]) -> Conditioning:
        """Encode prompts. Raises ValueError if a prompt contains a word outside the tokenizer's closed vocabulary."""
        self.check_prompts(prompts)
        pooled: list[Tensor] = []
        sequence: list[Tensor] = []
        for start in range(0, len(prompts), _ENCODE_BATCH):
            chunk = list(prompts[start : start + _ENCODE_BATCH])
            filled = chunk + chunk[-1:] * (_ENCODE_BATCH - len(chunk))
            for rows, embeddings in zip((pooled, sequence), self._encode(filled), strict=True):
                rows.append(embeddings[: len(chunk)])
        return Conditioning(torch.cat(pooled).to(self.dtype), torch.cat(sequence).to(self.dtype))

    def check_prompts(self, prompts: Sequence[str]) -> None:
        """Check prompts against tokenizers with a closed vocabulary.

        Raises ValueError that names the unknown words of the first invalid prompt.
        """
        for encoder in self.encoders:
            tokenizer = getattr(self._pipeline, _tokenizer(encoder))
            backend = getattr(tokenizer, "backend_tokenizer", None)
            if type(getattr(backend, "model", None)).__name__ != "WordLevel":
                continue  # subword tokenizers split unknown words, and <unk> for a rare character is not an error
            unknown = tokenizer.unk_token_id
            for prompt, numbers in zip(prompts, tokenizer(list(prompts)).input_ids, strict=True):
                if unknown in numbers:
                    words = [word for word in prompt.split() if unknown in tokenizer(word).input_ids]
                    named = ", ".join(words) or "a character"
                    raise ValueError(f"prompt {prompt!r}: the model {self.entry.name!r} does not know {named}")

    def encoding_identity(self) -> str:
        """Return a hash of everything that affects an encoding except the prompt.

        It covers the encoder and tokenizer files, the text length and the dtype.
        """
        names = [name for encoder in self.encoders for name in (encoder, _tokenizer(encoder))]
        own = fingerprint(self.entry.source, [name for name in names if getattr(self._pipeline, name) is not None])
        return hashlib.sha256(f"{own} {self.entry.text_length} {self.dtype}".encode()).hexdigest()

    def place_encoders(self, device: torch.device) -> None:
        """Move the text encoders to `device`."""
        for name in self.encoders:
            if (encoder := getattr(self._pipeline, name)) is not None:
                encoder.to(device)

    @torch.no_grad()
    def decode(self, latents: Tensor, size: ImageSize) -> Tensor:
        """Decode packed clean latents into images [images, 3, height, width] in 0..1."""
        vae = self._pipeline.vae
        scaled = self.unpack(latents, size) / vae.config.scaling_factor + vae.config.shift_factor
        images: Tensor = vae.decode(scaled.to(vae.dtype), return_dict=False)[0]
        return (images.to(latents.dtype) / 2 + 0.5).clamp(0, 1)

    @property
    def latent_dtype(self) -> torch.dtype:
        """The dtype of latents: float64 for a float64 model, otherwise float32. Trajectories never use bfloat16."""
        return torch.float64 if self.dtype == torch.float64 else torch.float32

    def noise(self, draw: Callable[[tuple[int, ...]], Tensor], size: ImageSize) -> Tensor:
        """Return packed initial noise for one image.

        `draw` generates the noise for the unpacked shape [1, channels, height, width].
        """
        return self.pack(draw((1, *self.latent_shape(size)))).to(self.device, self.latent_dtype)

    def packed_shape(self, size: ImageSize) -> tuple[int, ...]:
        """Return the shape [tokens, channels] of one image's packed latents."""
        packed = self.pack(torch.empty(1, *self.latent_shape(size), device="meta"))
        return tuple(packed.shape[1:])

    def velocity(self, conditioning: Conditioning, size: ImageSize, guidance: float) -> Velocity:
        """Return `predict` as a function of latents, sigma and the prompt indices in `conditioning`."""

        def evaluate(latents: Tensor, sigma: Tensor, prompts: list[int]) -> Tensor:
            return self.predict(latents, sigma, conditioning.rows(prompts), size, guidance)

        return evaluate

    def architecture(self) -> str:
        """Return a hash of the transformer configuration. Trained weights fit only a model with the same hash."""
        config: dict[str, Any] = {k: v for k, v in dict(self.transformer.config).items() if not k.startswith("_")}
        return hashlib.sha256(json.dumps(config, sort_keys=True, default=str).encode()).hexdigest()[:16]

    def weight_bytes(self) -> int:
        """Return the size of all loaded weights in bytes, including the encoders and the autoencoder."""
        parts = [part for part in self._pipeline.components.values() if isinstance(part, nn.Module)]
        tensors = [tensor for part in parts for tensor in (*part.parameters(), *part.buffers())]
        return sum(tensor.numel() * tensor.element_size() for tensor in tensors)

    def train_all(self, mesh: DeviceMesh | None = None) -> list[nn.Parameter]:
        """Make all transformer weights trainable and return them. If `mesh` is given, shard them over its processes."""
        self.transformer.to(self.latent_dtype)  # master weights; forward passes compute in `dtype` by autocast
        self._mixed = self.latent_dtype != self.dtype
        self.transformer.requires_grad_(True)
        if mesh is not None:
            sharding.shard(self.transformer, mesh, self.dtype)
        return list(self.transformer.parameters())

    def train_lora(self, rank: int, alpha: float, seed: int) -> list[nn.Parameter]:
        """Attach a LoRA and return its trainable parameters.

        The initial weights depend only on `seed`. The initial output of the LoRA is zero.
        """
        parameters = lora.attach(self.transformer, self.entry.lora_targets, rank, alpha, seed)
        self._merger = lora.Merger(self.transformer)
        return parameters

    @contextmanager
    def gathered(self) -> Iterator[None]:
        """Use unsharded weights within the context, so that every process can sample independently."""
        own = self.transformer
        if sharding.is_sharded(own):
            self.transformer = sharding.unsharded(own, self.dtype)
        try:
            yield
        finally:
            self.transformer = own

    @contextmanager
    def sampling_weights(self, faithful: bool = False) -> Iterator[None]:
        """Use the fastest form of the policy for sampling within the context, then restore the exact weights.

        In bfloat16, merging the LoRA loses small updates to rounding, which is acceptable for rollouts. Set `faithful`
        for images that measure or show the policy: the LoRA is then not merged in bfloat16.
        """
        rounds = self.dtype == torch.bfloat16
        with self._merger.merged() if self._merger and not (faithful and rounds) else nullcontext():
            yield

    @contextmanager
    def reference_weights(self) -> Iterator[None]:
        """Use the frozen base without the LoRA within the context. Raises RuntimeError if all weights are trained."""
        if self._merger is None:
            raise RuntimeError("all weights are trained: there is no frozen base")
        self.transformer.disable_adapters()
        try:
            yield
        finally:
            self.transformer.enable_adapters()

    @contextmanager
    def checkpoint_weights(self, directory: Path, manifest: CheckpointManifest) -> Iterator[None]:
        """Use the weights of a checkpoint within the context, then restore the base weights bit for bit.

        Must not be used during training. Raises ValueError if the checkpoint does not fit the model.
        """
        if manifest.architecture not in (None, self.architecture()):
            raise ValueError(
                f"the checkpoint's architecture {manifest.architecture} is not the one of {self.entry.name!r}, "
                f"{self.architecture()}"
            )
        if manifest.lora_rank is None or manifest.lora_alpha is None:
            base = {name: tensor.clone() for name, tensor in self.transformer.state_dict().items()}
            try:
                self.load_trained(directory)
                yield
            finally:
                self.transformer.load_state_dict(base)
            return
        try:
            self.train_lora(manifest.lora_rank, manifest.lora_alpha, seed=0)
            self.load_trained(directory)
            with self.sampling_weights(faithful=True):
                yield
        finally:
            if lora.layers(self.transformer):
                self.transformer.unload_lora()
            self._merger = None

    def save_trained(self, directory: Path | None) -> None:
        """Write the trained weights to `directory` in the diffusers format.

        Every process must call this method; all except the writing process pass None.
        """
        if self._merger is None:
            transformer = sharding.whole_model(self.transformer, keep=directory is not None)
            if directory is not None:
                transformer.save_pretrained(directory / "transformer")
        elif directory is not None:
            metadata = lora.metadata(self.transformer)
            self.pipeline_class.save_lora_weights(
                directory, lora.state(self.transformer), transformer_lora_adapter_metadata=metadata
            )

    def load_trained(self, directory: Path) -> None:
        """Load weights written by `save_trained`. Raises ValueError if tensor names or shapes do not match."""
        if self._merger is not None:
            lora.load(self.transformer, directory)
            return
        saved: dict[str, Tensor] = {}
        for path in sorted((directory / "transformer").glob("*.safetensors")):
            saved.update(load_file(path))
        targets = self.transformer.state_dict()
        try:
            parts = {name: sharding.like(tensor, targets.get(name, tensor)) for name, tensor in saved.items()}
            self.transformer.load_state_dict(parts)
        except RuntimeError as error:
            raise ValueError(f"the checkpoint's transformer does not fit {self.entry.name!r}: {error}") from error

    def _cell(self, size: ImageSize, cell: int) -> tuple[int, int]:
        """Return the numbers of rows and columns of `cell` × `cell` pixels in the image.

        Raises ValueError if the width or height is not a multiple of `cell`.
        """
        if size.width % cell or size.height % cell:
            raise ValueError(f"size {size.width}×{size.height}: width and height must be multiples of {cell} pixels")
        return size.height // cell, size.width // cell

    def _precision(self) -> AbstractContextManager[None]:
        """Return a context in which forward passes compute in `dtype`, even if the weights are more precise."""
        return torch.autocast(self.device.type, self.dtype) if self._mixed else nullcontext()


def _tokenizer(encoder: str) -> str:
    """Return the component name of an encoder's tokenizer in the pipeline."""
    return encoder.replace("text_encoder", "tokenizer")


def _load_encoder(encoder: Any, directory: Path, dtype: torch.dtype) -> Any:
    """Load a text encoder.

    Raises ValueError if tensors are missing or mismatched, because transformers would initialize them randomly.
    """
    loaded, info = encoder.from_pretrained(
        directory, dtype=dtype, use_safetensors=True, output_loading_info=True, ignore_mismatched_sizes=True
    )
    weights.check_loaded(str(directory), info)
    return loaded
