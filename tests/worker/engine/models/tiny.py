"""Tiny pipelines of the published layout: real classes, random weights, word-level tokenizers."""

from pathlib import Path
from typing import Any

import torch
from diffusers import (
    AutoencoderKL,
    FlowMatchEulerDiscreteScheduler,
    FluxPipeline,
    FluxTransformer2DModel,
    SD3Transformer2DModel,
    StableDiffusion3Pipeline,
)
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, T5Config, T5EncoderModel

from service.contracts.catalog import ModelEntry
from worker.shapes.pretrain.tokenizers import END, PAD, SPECIAL, START, clip_tokenizer, t5_tokenizer

WORDS = ("a", "small", "large", "red", "green", "blue", "cube", "ball", "on", "under", "the", "sea")
PROMPTS = ["a small red cube", "the large blue ball on a green cube", "sea", "a ball under the sea"]
TEXT_LENGTH = 12
SHIFT = 3.0
WIDTH = 32

KINDS = ("flux-dev", "flux-schnell", "sd3", "sd3-without-t5")
ONE_BLOCK = "sd3-one-block"
"""For tests that compile blocks, because each kind of block takes seconds."""


def make(kind: str, place: Path) -> ModelEntry:
    """Write the pipeline of the given kind to `place`, and return its catalog entry."""
    torch.manual_seed(11)
    layers = 1 if kind == ONE_BLOCK else 2
    pipeline = flux(kind == "flux-dev") if kind.startswith("flux") else sd3(kind != "sd3-without-t5", layers)
    pipeline.save_pretrained(place)
    return entry(kind, place)


def entry(kind: str, place: Path) -> ModelEntry:
    """The catalog entry of the pipeline in `place`."""
    return ModelEntry(
        name=kind,
        family="flux" if kind.startswith("flux") else "sd3",
        source={"directory": place},
        steps=4,
        shift=SHIFT,
        guidance=3.5,
        width=32,
        height=32,
        max_size=64,
        text_length=TEXT_LENGTH,
        parameters=1,
    )


def flux(guidance: bool) -> FluxPipeline:
    transformer = FluxTransformer2DModel(
        patch_size=1,
        in_channels=16,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=WIDTH,
        pooled_projection_dim=WIDTH,
        guidance_embeds=guidance,
        axes_dims_rope=(4, 6, 6),
    )
    return FluxPipeline(
        scheduler=scheduler(),
        vae=vae(),
        text_encoder=CLIPTextModel(clip_config(WIDTH)).eval(),
        tokenizer=clip_tokenizer(WORDS),
        text_encoder_2=t5(),
        tokenizer_2=t5_tokenizer(WORDS),
        transformer=transformer.eval(),
    )


def sd3(with_t5: bool, layers: int = 2) -> StableDiffusion3Pipeline:
    transformer = SD3Transformer2DModel(
        sample_size=8,
        patch_size=2,
        in_channels=4,
        out_channels=4,
        num_layers=layers,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=WIDTH,
        caption_projection_dim=WIDTH,
        pooled_projection_dim=WIDTH,
        pos_embed_max_size=12,
        dual_attention_layers=(0,),
        qk_norm="rms_norm",
    )
    half = clip_config(WIDTH // 2)
    return StableDiffusion3Pipeline(
        transformer=transformer.eval(),
        scheduler=scheduler(),
        vae=vae(),
        text_encoder=CLIPTextModelWithProjection(half).eval(),
        tokenizer=clip_tokenizer(WORDS),
        text_encoder_2=CLIPTextModelWithProjection(half).eval(),
        tokenizer_2=clip_tokenizer(WORDS),
        text_encoder_3=t5() if with_t5 else None,
        tokenizer_3=t5_tokenizer(WORDS) if with_t5 else None,
    )


def scheduler() -> FlowMatchEulerDiscreteScheduler:
    return FlowMatchEulerDiscreteScheduler(shift=SHIFT, use_dynamic_shifting=False)


def vae() -> AutoencoderKL:
    blocks: dict[str, Any] = {
        "down_block_types": ("DownEncoderBlock2D",) * 2,
        "up_block_types": ("UpDecoderBlock2D",) * 2,
    }
    return AutoencoderKL(
        block_out_channels=(8, 16),
        latent_channels=4,
        layers_per_block=1,
        norm_num_groups=4,
        scaling_factor=1.5,
        shift_factor=0.06,
        use_quant_conv=False,
        use_post_quant_conv=False,
        **blocks,
    ).eval()


def clip_config(width: int) -> CLIPTextConfig:
    return CLIPTextConfig(
        vocab_size=len(SPECIAL) + len(WORDS),
        hidden_size=width,
        projection_dim=width,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=16,
        pad_token_id=SPECIAL.index(PAD),
        bos_token_id=SPECIAL.index(START),
        eos_token_id=SPECIAL.index(END),
    )


def t5() -> T5EncoderModel:
    config = T5Config(
        vocab_size=len(SPECIAL) + len(WORDS),
        d_model=WIDTH,
        d_kv=16,
        d_ff=32,
        num_layers=1,
        num_heads=2,
        dropout_rate=0.0,
        feed_forward_proj="gated-gelu",
        pad_token_id=SPECIAL.index(PAD),
        eos_token_id=SPECIAL.index(END),
    )
    return T5EncoderModel(config).eval()
