"""Stable Diffusion 3.5 (medium, large) and finetunes of its architecture, through diffusers."""

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from diffusers import SD3Transformer2DModel, StableDiffusion3Pipeline
from torch import Tensor
from transformers import CLIPTextModelWithProjection, T5EncoderModel

from service.contracts.catalog import ModelEntry
from worker.engine.models.base import Conditioning, FlowModel, ImageSize

_TIMESTEPS = 1000.0
"""Scale of the transformer's timestep input: σ times the number of training timesteps."""


class SD3Model(FlowModel):
    """Tokens are latent positions. Guidance is classifier-free, against the empty prompt, where it exceeds 1.

    The T5 is optional; without it the pipeline uses zeros.
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
            raise ValueError(f"size {size.width}×{size.height}: the model has positions for at most {most} pixels")
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
        """Packed velocities, in the dtype of the latents `x` [images, channels, height, width]."""
        with self._precision():
            output = self.transformer(
                hidden_states=x.to(self.dtype),
                timestep=sigma * _TIMESTEPS,
                pooled_projections=conditioning.pooled,
                encoder_hidden_states=conditioning.sequence,
                return_dict=False,
            )[0]
        return self.pack(output.to(x.dtype))
