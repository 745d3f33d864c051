"""Adapter for FLUX.1 (dev, schnell) and finetunes with the same architecture, based on diffusers."""

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from diffusers import FluxPipeline, FluxTransformer2DModel
from torch import Tensor
from transformers import CLIPTextModel, T5EncoderModel

from worker.engine.models.base import Conditioning, FlowModel, ImageSize


class FluxModel(FlowModel):
    """A FLUX.1 model. Each token packs 2×2 latent positions.

    Guidance is an embedded input of the transformer; schnell has no guidance input and ignores the value.
    """

    pipeline_class = FluxPipeline
    transformer_class = FluxTransformer2DModel
    encoders: ClassVar[Mapping[str, Any]] = {"text_encoder": CLIPTextModel, "text_encoder_2": T5EncoderModel}

    def _encode(self, prompts: list[str]) -> tuple[Tensor, Tensor]:
        sequence, pooled, _ = self._pipeline.encode_prompt(
            prompts, None, device=self.device, max_sequence_length=self.entry.text_length
        )
        return pooled, sequence

    def latent_shape(self, size: ImageSize) -> tuple[int, int, int]:
        rows, columns = self._cell(size, 2 * self._pipeline.vae_scale_factor)
        return self.transformer.config.in_channels // 4, 2 * rows, 2 * columns

    def pack(self, latents: Tensor) -> Tensor:
        packed: Tensor = self._pipeline._pack_latents(latents, *latents.shape)
        return packed

    def unpack(self, latents: Tensor, size: ImageSize) -> Tensor:
        factor = self._pipeline.vae_scale_factor
        unpacked: Tensor = self._pipeline._unpack_latents(latents, size.height, size.width, factor)
        return unpacked

    def predict(
        self, latents: Tensor, sigma: Tensor, conditioning: Conditioning, size: ImageSize, guidance: float
    ) -> Tensor:
        _, height, width = self.latent_shape(size)
        image_ids = self._pipeline._prepare_latent_image_ids(1, height // 2, width // 2, self.device, self.dtype)
        text_ids = torch.zeros(conditioning.sequence.shape[1], 3, device=self.device, dtype=self.dtype)
        embedded = self.transformer.config.guidance_embeds
        with self._precision():
            output = self.transformer(
                hidden_states=latents.to(self.dtype),
                timestep=sigma.to(self.dtype),
                guidance=torch.full_like(sigma, guidance, dtype=torch.float32) if embedded else None,
                pooled_projections=conditioning.pooled,
                encoder_hidden_states=conditioning.sequence,
                txt_ids=text_ids,
                img_ids=image_ids,
                return_dict=False,
            )[0]
        velocity: Tensor = output.to(latents.dtype)
        return velocity
