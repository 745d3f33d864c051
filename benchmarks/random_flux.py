"""FLUX.1-dev and the rewards of the `paper` presets with random weights, at full size or small enough for any CPU.

Weights have the default initialization of diffusers and transformers, so that all values are finite.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from diffusers import AutoencoderKL, FlowMatchEulerDiscreteScheduler, FluxPipeline, FluxTransformer2DModel
from torch import nn
from transformers import CLIPConfig, CLIPModel, CLIPTextConfig, CLIPTextModel, T5Config, T5EncoderModel

from service.contracts.catalog import Catalog
from worker.engine.rewards.clip import ClipReward, Fit
from worker.engine.rewards.hps import HpsReward
from worker.engine.rewards.preprocessing import OPENAI_MEAN, OPENAI_STD, center_square, middle, resize_tensor
from worker.engine.rewards.tokens import Tokens
from worker.shapes.pretrain.tokenizers import END, PAD, SPECIAL, START, clip_tokenizer, t5_tokenizer
from worker.shapes.words import BASIC_VOCABULARY

MODEL = "flux-1-dev"
"""Name of the model in the catalog."""
_POSITIONS = 77
"""Text length of CLIP's text towers."""


@dataclass(frozen=True)
class Sizes:
    """Model configurations, and the fields of the spec and of the catalog entry that depend on them."""

    transformer: dict[str, Any]
    clip: dict[str, Any]
    t5: dict[str, Any]
    vae: dict[str, Any]
    reward_text: dict[str, Any]
    reward_image: dict[str, Any]
    reward_width: int
    spec: dict[str, Any]
    entry: dict[str, Any]


def _tower(width: int, layers: int, heads: int, **more: int) -> dict[str, Any]:
    sizes = {"hidden_size": width, "intermediate_size": 4 * width, "num_hidden_layers": layers}
    return sizes | {"num_attention_heads": heads} | more


TRUE = Sizes(
    transformer={"num_layers": 19, "num_single_layers": 38},  # widths: defaults of diffusers
    clip=_tower(768, 12, 12, vocab_size=49408),
    t5={"d_model": 4096, "d_kv": 64, "d_ff": 10240, "num_layers": 24, "num_heads": 64, "vocab_size": 32128},
    vae={"block_out_channels": (128, 256, 512, 512), "layers_per_block": 2},
    reward_text=_tower(1024, 24, 16, vocab_size=49408),
    reward_image=_tower(1280, 32, 16, image_size=224, patch_size=14),
    reward_width=1024,
    spec={},
    entry={},
)
TINY = Sizes(
    transformer={"num_layers": 1, "num_single_layers": 2, "attention_head_dim": 16, "num_attention_heads": 2}
    | {"joint_attention_dim": 32, "pooled_projection_dim": 32, "axes_dims_rope": (4, 6, 6)},
    clip=_tower(32, 1, 2, vocab_size=64),
    t5={"d_model": 32, "d_kv": 16, "d_ff": 64, "num_layers": 1, "num_heads": 2, "vocab_size": 64},
    vae={"block_out_channels": (8, 8, 16, 16), "layers_per_block": 1, "norm_num_groups": 4},
    reward_text=_tower(32, 1, 2, vocab_size=64),
    reward_image=_tower(32, 1, 2, image_size=28, patch_size=14),
    reward_width=32,
    spec={
        "sampling": {"steps": 5, "width": 64, "height": 64, "rollout_batch_size": 4, "compile": False},
        "algorithm": {"sde_steps": [0, 1], "granularities": [1, 2], "group_size": 2},
        "training": {"lora_rank": 4, "lora_alpha": 8},
    },
    entry={"text_length": 16, "max_size": 64},
)


def flux(sizes: Sizes, device: torch.device, dtype: torch.dtype) -> FluxPipeline:
    """Create the complete pipeline, frozen and in evaluation mode."""
    clip, t5 = clip_tokenizer(BASIC_VOCABULARY), t5_tokenizer(BASIC_VOCABULARY)
    clip.model_max_length = _POSITIONS
    with _made_on(device, dtype):
        parts = {
            "transformer": FluxTransformer2DModel(guidance_embeds=True, **sizes.transformer),
            "text_encoder": CLIPTextModel(CLIPTextConfig(**_text(sizes.clip))),
            "text_encoder_2": T5EncoderModel(T5Config(feed_forward_proj="gated-gelu", **sizes.t5)),
            "vae": AutoencoderKL(
                down_block_types=("DownEncoderBlock2D",) * 4,
                up_block_types=("UpDecoderBlock2D",) * 4,
                latent_channels=16,
                scaling_factor=0.3611,
                shift_factor=0.1159,
                use_quant_conv=False,
                use_post_quant_conv=False,
                **sizes.vae,
            ),
        }
    for part in parts.values():
        part.requires_grad_(False).eval()
    return FluxPipeline(FlowMatchEulerDiscreteScheduler(), tokenizer=clip, tokenizer_2=t5, **parts)


def reward(kind: str, sizes: Sizes, device: torch.device) -> ClipReward:
    """Create HPS v2.1 (`hps`) or the CLIP score of DFN5B (`clip`); they differ in the activation function only."""
    kinds: dict[str, tuple[type[ClipReward], str, Fit]] = {
        "hps": (HpsReward, "gelu", partial(center_square, resized=resize_tensor)),
        "clip": (ClipReward, "quick_gelu", middle),
    }
    make, activation, fit = kinds[kind]
    both = {"hidden_act": activation, "projection_dim": sizes.reward_width}
    config = CLIPConfig(
        projection_dim=sizes.reward_width,
        text_config=_text(sizes.reward_text) | both,
        vision_config=sizes.reward_image | both,
    )
    with _made_on(device, torch.float32):
        model = CLIPModel(config)
    tokens = Tokens(clip_tokenizer(BASIC_VOCABULARY), _POSITIONS, cleaned=True)
    return make(model.requires_grad_(False).eval(), tokens, fit, OPENAI_MEAN, OPENAI_STD)


def described(catalog: Catalog, sizes: Sizes, pipeline: FluxPipeline, rewards: Mapping[str, ClipReward]) -> Catalog:
    """Return `catalog` with the sizes of the given model and rewards in their entries."""
    config = pipeline.transformer.config
    entry = {
        "parameters": _count(pipeline.transformer),
        "hidden_size": config.num_attention_heads * config.attention_head_dim,
        "blocks": config.num_layers,
        "single_blocks": config.num_single_layers,
        "out_channels": pipeline.transformer.out_channels,
        "encoder_parameters": _count(pipeline.text_encoder) + _count(pipeline.text_encoder_2),
        "decoder_parameters": _count(pipeline.vae),
    }
    models = tuple(one.model_copy(update=entry | sizes.entry) if one.name == MODEL else one for one in catalog.models)
    judging = tuple(
        one.model_copy(update={"parameters": _count(rewards[one.name].model)}) if one.name in rewards else one
        for one in catalog.rewards
    )
    return catalog.model_copy(update={"models": models, "rewards": judging})


def _count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def _text(sizes: dict[str, Any]) -> dict[str, Any]:
    """Configuration of a CLIP text tower with the special tokens of the word-level tokenizer."""
    marks = {"pad_token_id": SPECIAL.index(PAD), "bos_token_id": SPECIAL.index(START)}
    return sizes | marks | {"eos_token_id": SPECIAL.index(END), "max_position_embeddings": _POSITIONS}


@contextmanager
def _made_on(device: torch.device, dtype: torch.dtype) -> Iterator[None]:
    """Initialize weights directly on `device` in `dtype`; in float32 they would need 48 GB."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with device:
            yield
    finally:
        torch.set_default_dtype(before)
