"""Adapter for Stable Diffusion 3.5 (medium, large) and finetunes with the same architecture, based on diffusers."""

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from diffusers import SD3Transformer2DModel, StableDiffusion3Pipeline
from torch import Tensor
from transformers import CLIPTextModelWithProjection, T5EncoderModel

from service.contracts.catalog import ModelEntry
from worker.engine.models.base import Conditioning, FlowModel, ImageSize

_TIMESTEPS = 1000.0
"""The number of training timesteps. The transformer's timestep input is σ multiplied by this number."""


class SD3Model(FlowModel):
    """A Stable Diffusion 3.5 model. Each token is one latent position.

    Guidance values above 1 enable classifier-free guidance with the empty prompt. The T5 encoder is optional; if it is
    missing, the pipeline uses zeros.
    """

    pipeline_class = StableDiffusion3Pipeline
    transformer_class = SD3Transformer2DModel
    encoders: ClassVar[Mapping[str, Any]] = {
        "text_encoder": CLIPTextModelWithProjection,
        "text_encoder_2": CLIPTextModelWithProjection,
        "text_encoder_3": T5EncoderModel,
    }
    optional = frozenset({"text_encoder_3"})

    def __init__(self, pipeline: Any, entry: ModelEntry, device: torch.device, dtype: torch.dtype) -> None:
        super().__init__(pipeline, entry, device, dtype)
        self._empty = self.encode([""])

    def _encode(self, prompts: list[str]) -> tuple[Tensor, Tensor]:
        sequence, _, pooled, _ = self._pipeline.encode_prompt(
            prompts,
            None,
            None,
            device=self.device,
            do_classifier_free_guidance=False,
            max_sequence_length=self.entry.text_length,
        )
        return pooled, sequence

    def latent_shape(self, size: ImageSize) -> tuple[int, int, int]:
        config = self.transformer.config
        cell = config.patch_size * self._pipeline.vae_scale_factor
        rows, columns = self._cell(size, cell)
        if max(rows, columns) > config.pos_embed_max_size:
            most = config.pos_embed_max_size * cell
            raise ValueError(f"size {size.width}×{size.height} exceeds the model's maximum of {most} pixels per side")
        return config.in_channels, config.patch_size * rows, config.patch_size * columns

    def pack(self, latents: Tensor) -> Tensor:
        return latents.flatten(2).transpose(1, 2)

    def unpack(self, latents: Tensor, size: ImageSize) -> Tensor:
        return latents.transpose(1, 2).reshape(len(latents), *self.latent_shape(size))

    def predict(
        self, latents: Tensor, sigma: Tensor, conditioning: Conditioning, size: ImageSize, guidance: float
    ) -> Tensor:
        x = self.unpack(latents, size)
        if self.entry.passes(guidance) == 1:
            return self._forward(x, sigma, conditioning)
        empty = self._empty.rows([0] * len(x))
        both = Conditioning(
            torch.cat([empty.pooled, conditioning.pooled]), torch.cat([empty.sequence, conditioning.sequence])
        )
        without, given = self._forward(torch.cat([x, x]), torch.cat([sigma, sigma]), both).chunk(2)
        return without + guidance * (given - without)

    def _forward(self, x: Tensor, sigma: Tensor, conditioning: Conditioning) -> Tensor:
        """Compute packed velocities for latents `x` [images, channels, height, width], in the dtype of `x`."""
        with self._precision():
            output = self.transformer(
                hidden_states=x.to(self.dtype),
                timestep=sigma * _TIMESTEPS,
                pooled_projections=conditioning.pooled,
                encoder_hidden_states=conditioning.sequence,
                return_dict=False,
            )[0]
        return self.pack(output.to(x.dtype))
