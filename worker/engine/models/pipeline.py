"""What the families that are diffusers pipelines share: loading, encoding in batches, trained weights, checkpoints."""

import hashlib
from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any, ClassVar, Self

import torch
from diffusers import AutoencoderKL
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh

from service.contracts.catalog import ModelEntry
from service.contracts.jobs import CheckpointManifest
from worker.engine.models import lora, sharding, weights
from worker.engine.models.base import Conditioning, FlowModel, ImageSize
from worker.engine.models.sources import fetch, fingerprint

_ENCODE_BATCH = 8
"""Prompts are encoded in batches of this many rows, filled up: an embedding must not depend on its company."""


class PipelineModel(FlowModel):
    """A diffusers pipeline directory. Trained weights are a LoRA in diffusers' format, or a transformer directory."""

    pipeline_class: ClassVar[Any]
    transformer_class: ClassVar[Any]
    encoders: ClassVar[Mapping[str, Any]]
    """The text encoders' places in the pipeline, and their classes."""
    optional: ClassVar[frozenset[str]] = frozenset()
    """Encoders that a pipeline may lack."""

    def __init__(self, pipeline: Any, entry: ModelEntry, device: torch.device, dtype: torch.dtype) -> None:
        self.entry, self.device, self.dtype = entry, device, dtype
        self._pipeline = pipeline
        self.transformer = pipeline.transformer
        self._merger: lora.Merger | None = None
        self._mixed = False
        """Whether weights are of a higher precision than what computes with them."""

    @classmethod
    def check(cls, entry: ModelEntry) -> None:
        cls._checked(entry)

    @classmethod
    def _checked(cls, entry: ModelEntry) -> tuple[Path, list[str]]:
        """Where the pipeline is, and the names of its parts."""
        place = fetch(entry.source, cls.pipeline_class)
        parts = {"transformer": cls.transformer_class, "vae": AutoencoderKL, **cls.encoders}
        return place, weights.check_pipeline(place, cls.pipeline_class, parts, cls.optional)

    @classmethod
    def load(cls, entry: ModelEntry, device: torch.device, dtype: torch.dtype) -> Self:
        place, present = cls._checked(entry)
        given: dict[str, Any] = {}
        for name, encoder in cls.encoders.items():
            if name in present:
                given[name] = _encoder(encoder, place / name, dtype)
            else:
                given |= {name: None, _tokenizer(name): None}
        pipeline = cls.pipeline_class.from_pretrained(place, dtype=dtype, use_safetensors=True, **given)
        for name in present:  # all are read and whole before the device is taken
            getattr(pipeline, name).requires_grad_(False).eval().to(device)
        return cls(pipeline, entry, device, dtype)

    @abstractmethod
    def _encode(self, prompts: list[str]) -> tuple[Tensor, Tensor]:
        """Pooled and sequence embeddings of one batch, as the pipeline makes them."""

    @abstractmethod
    def unpack(self, latents: Tensor, size: ImageSize) -> Tensor:
        """What `pack` packed: [images, channels, height, width]."""

    @torch.no_grad()
    def encode(self, prompts: Sequence[str]) -> Conditioning:
        self.check_prompts(prompts)
        pooled, sequence = [], []
        for start in range(0, len(prompts), _ENCODE_BATCH):
            chunk = list(prompts[start : start + _ENCODE_BATCH])
            filled = chunk + chunk[-1:] * (_ENCODE_BATCH - len(chunk))
            pooled_embeds, embeds = self._encode(filled)
            pooled.append(pooled_embeds[: len(chunk)])
            sequence.append(embeds[: len(chunk)])
        return Conditioning(torch.cat(pooled).to(self.dtype), torch.cat(sequence).to(self.dtype))

    def check_prompts(self, prompts: Sequence[str]) -> None:
        for name in self.encoders:
            self._check_words(getattr(self._pipeline, _tokenizer(name)), prompts)

    def encoding_identity(self) -> str:
        names = [name for encoder in self.encoders for name in (encoder, _tokenizer(encoder))]
        own = fingerprint(self.entry.source, [name for name in names if getattr(self._pipeline, name) is not None])
        return hashlib.sha256(f"{own} {self.entry.text_length} {self.dtype}".encode()).hexdigest()

    def weight_bytes(self) -> int:
        parts = [part for part in self._pipeline.components.values() if isinstance(part, nn.Module)]
        weights = [weight for part in parts for weight in (*part.parameters(), *part.buffers())]
        return sum(weight.numel() * weight.element_size() for weight in weights)

    def place_encoders(self, device: torch.device) -> None:
        for name in self.encoders:
            if (encoder := getattr(self._pipeline, name)) is not None:
                encoder.to(device)

    def _check_words(self, tokenizer: Any, prompts: Sequence[str]) -> None:
        backend = getattr(tokenizer, "backend_tokenizer", None)
        if type(getattr(backend, "model", None)).__name__ != "WordLevel":
            return  # others spell out what they do not know; an odd sign becoming <unk> is no error there
        unknown = tokenizer.unk_token_id
        for prompt, numbers in zip(prompts, tokenizer(list(prompts)).input_ids, strict=True):
            if unknown in numbers:
                words = [word for word in prompt.split() if unknown in tokenizer(word).input_ids]
                raise ValueError(
                    f"prompt {prompt!r}: the model {self.entry.name!r} does not know {', '.join(words) or 'a sign'}"
                )

    def _cell(self, size: ImageSize, cell: int) -> tuple[int, int]:
        """Rows and columns of cells of `cell` pixels; ValueError where the image is not made of whole ones."""
        if size.width % cell or size.height % cell:
            raise ValueError(f"size {size.width}×{size.height}: width and height must be multiples of {cell} pixels")
        return size.height // cell, size.width // cell

    def _precision(self) -> AbstractContextManager[None]:
        """Within: forwards compute in `dtype`, whatever the weights are kept in."""
        return torch.autocast(self.device.type, self.dtype) if self._mixed else nullcontext()

    @torch.no_grad()
    def decode(self, latents: Tensor, size: ImageSize) -> Tensor:
        vae = self._pipeline.vae
        scaled = self.unpack(latents, size) / vae.config.scaling_factor + vae.config.shift_factor
        images: Tensor = vae.decode(scaled.to(vae.dtype), return_dict=False)[0]
        return (images.to(latents.dtype) / 2 + 0.5).clamp(0, 1)

    def train_lora(self, rank: int, alpha: float, seed: int) -> list[nn.Parameter]:
        parameters = lora.attach(self.transformer, self.entry.lora_targets, rank, alpha, seed)
        self._merger = lora.Merger(self.transformer)
        return parameters

    def train_all(self, mesh: DeviceMesh | None = None) -> list[nn.Parameter]:
        self.transformer.to(self.latent_dtype)  # master weights; forwards run in `dtype` by autocast
        self._mixed = self.latent_dtype != self.dtype
        return super().train_all(mesh)

    @contextmanager
    def sampling_weights(self, faithful: bool = False) -> Iterator[None]:
        rounds = self.dtype == torch.bfloat16
        with self._merger.merged() if self._merger and not (faithful and rounds) else nullcontext():
            yield

    @contextmanager
    def reference_weights(self) -> Iterator[None]:
        if self._merger is None:
            raise RuntimeError("all weights are trained: there is no frozen base")
        self.transformer.disable_adapters()
        try:
            yield
        finally:
            self.transformer.enable_adapters()

    @contextmanager
    def checkpoint_weights(self, directory: Path, manifest: CheckpointManifest) -> Iterator[None]:
        if manifest.architecture not in (None, self.architecture()):
            raise ValueError(
                f"the checkpoint's architecture {manifest.architecture} is not that of {self.entry.name!r}, "
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
        if self._merger is None:
            transformer = sharding.whole_model(self.transformer, keep=directory is not None)
            if directory is not None:
                transformer.save_pretrained(directory / "transformer")
            return
        if directory is None:
            return
        self.pipeline_class.save_lora_weights(
            directory, lora.state(self.transformer), transformer_lora_adapter_metadata=lora.metadata(self.transformer)
        )

    def load_trained(self, directory: Path) -> None:
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


def _tokenizer(encoder: str) -> str:
    """The place of an encoder's tokenizer in the pipeline."""
    return encoder.replace("text_encoder", "tokenizer")


def _encoder(encoder: Any, directory: Path, dtype: torch.dtype) -> Any:
    """A text encoder; ValueError where its tensors do not fit, which transformers would fill with random ones."""
    loaded, info = encoder.from_pretrained(
        directory, dtype=dtype, use_safetensors=True, output_loading_info=True, ignore_mismatched_sizes=True
    )
    weights.check_loaded(directory, info)
    return loaded
