"""Stage 3: the flow transformer and its T5 encoder, trained together on latents as the base model for alignment."""

from pathlib import Path

import torch
from diffusers import AutoencoderKL, FlowMatchEulerDiscreteScheduler, FluxPipeline, FluxTransformer2DModel
from torch import Tensor
from transformers import CLIPModel, CLIPTextModel, T5Config, T5EncoderModel

from worker.shapes import TEXT_LENGTH
from worker.shapes.pretrain.autoencoder import LATENT_CHANNELS, encode
from worker.shapes.pretrain.clip import tokenize
from worker.shapes.pretrain.presets import Preset
from worker.shapes.pretrain.stage import Stage
from worker.shapes.pretrain.tokenizers import END, PAD, SPECIAL, clip_tokenizer, t5_tokenizer
from worker.shapes.pretrain.worlds import WORLDS, initialize

SHIFT = 3.0
"""Shift of the sampling schedule. Training noise levels are shifted in the same way."""
GUIDANCE = (1.0, 5.0)
"""Range of the guidance input in training. FLUX.1-dev has this input too; here its value has no effect."""
TEXT_WIDTH = 64
ENCODE_BATCH = 500
"""Images rendered and encoded per batch.

Each caption has a single image, encoded before training, which halves the training time.
"""


def train_flow(preset: Preset, out: Path, device: str) -> None:
    """Train the flow model and write the world's pipeline to `out`, with the results of the previous stages."""
    world = WORLDS[preset.world]
    stage = Stage("flow", preset, out, device, preset.seed + 5)
    plan, generator = stage.plan, stage.generator
    autoencoder = AutoencoderKL.from_pretrained(out / world.flux / "vae").to(device).eval()
    clip_text = _clip_text(out / world.clip).to(device).eval()
    torch.manual_seed(preset.seed + 4)
    transformer, t5 = _transformer(), T5EncoderModel(_t5_config(len(SPECIAL) + len(world.vocabulary)))
    if world.start:
        source = world.start / "shapes-flux"
        initialize(transformer, FluxTransformer2DModel.from_pretrained(source / "transformer"))
        initialize(t5, T5EncoderModel.from_pretrained(source / "text_encoder_2"))
    transformer, t5 = transformer.to(device).train(), t5.to(device).train()

    scenes = world.scenes(preset.pairs, preset.seed)
    t5_tokens = tokenize(t5_tokenizer(world.vocabulary), scenes.captions).to(device)
    pooled = _pooled(clip_text, tokenize(clip_tokenizer(world.vocabulary), scenes.captions).to(device))
    latents = torch.cat(
        [packed_latents(autoencoder, batch.images) for batch in scenes.in_order(ENCODE_BATCH, preset.seed, device)]
    )
    image_ids = FluxPipeline._prepare_latent_image_ids(1, 4, 4, device, torch.float32)

    def loss() -> Tensor:
        rows = torch.randint(len(latents), (plan.batch,), generator=generator).to(device)
        clean = latents[rows]
        noise = torch.randn(clean.shape, generator=generator).to(device)
        sigma = _training_sigmas(plan.batch, generator).to(device)
        guidance = torch.empty(plan.batch).uniform_(*GUIDANCE, generator=generator).to(device)
        noisy = (1 - sigma[:, None, None]) * clean + sigma[:, None, None] * noise
        # As in the pipeline, there is no attention mask: padding is part of the prompt.
        with torch.autocast(torch.device(device).type, torch.bfloat16, enabled=plan.bfloat16):
            velocity = transformer(
                hidden_states=noisy,
                timestep=sigma,
                guidance=guidance,
                pooled_projections=pooled[rows],
                encoder_hidden_states=t5(input_ids=t5_tokens[rows]).last_hidden_state,
                txt_ids=torch.zeros(TEXT_LENGTH, 3, device=device),
                img_ids=image_ids,
                return_dict=False,
            )[0]
        error: Tensor = velocity.float() - (noise - clean)
        return error.square().mean()

    stage.train([transformer, t5], loss, max_norm=1.0)
    autoencoder.register_to_config(_name_or_path="")  # otherwise the shipped file would contain a local path
    pipeline = FluxPipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(shift=SHIFT, use_dynamic_shifting=False),
        vae=autoencoder.cpu(),
        text_encoder=clip_text.cpu(),
        tokenizer=clip_tokenizer(world.vocabulary),
        text_encoder_2=t5.eval().cpu(),
        tokenizer_2=t5_tokenizer(world.vocabulary),
        transformer=transformer.eval().cpu(),
    )
    pipeline.save_pretrained(out / world.flux)
    stage.finish(parameters=transformer.num_parameters(), t5_parameters=t5.num_parameters())


def packed_latents(autoencoder: AutoencoderKL, images: Tensor) -> Tensor:
    """Encode images in [0, 1] into normalized latents for the transformer: [N, 16 tokens, 32 channels]."""
    config = autoencoder.config
    latents = (encode(autoencoder, images) - config["shift_factor"]) * config["scaling_factor"]
    packed: Tensor = FluxPipeline._pack_latents(latents, len(latents), *latents.shape[1:])
    return packed


def _training_sigmas(count: int, generator: torch.Generator) -> Tensor:
    """Sample noise levels [N] in (0, 1): logit-normal, then shifted like the sampling schedule."""
    normal = torch.sigmoid(torch.randn(count, generator=generator))
    return SHIFT * normal / (1 + (SHIFT - 1) * normal)


def _transformer() -> FluxTransformer2DModel:
    model = FluxTransformer2DModel(
        patch_size=1,
        in_channels=4 * LATENT_CHANNELS,
        num_layers=2,
        num_single_layers=4,
        attention_head_dim=32,
        num_attention_heads=3,
        joint_attention_dim=TEXT_WIDTH,
        pooled_projection_dim=TEXT_WIDTH,
        guidance_embeds=True,
        axes_dims_rope=(8, 12, 12),
    )
    # Modulation and output start at zero, so that every block starts as the identity, which speeds up early training.
    for name, layer in model.named_modules():
        if name == "proj_out" or (name.endswith(".linear") and "norm" in name):
            torch.nn.init.zeros_(layer.weight)
            torch.nn.init.zeros_(layer.bias)
    return model


def _t5_config(tokens: int) -> T5Config:
    return T5Config(
        vocab_size=tokens,
        d_model=TEXT_WIDTH,
        d_kv=16,
        d_ff=128,
        num_layers=2,
        num_heads=4,
        relative_attention_num_buckets=16,
        relative_attention_max_distance=TEXT_LENGTH,
        dropout_rate=0.0,
        feed_forward_proj="gated-gelu",
        pad_token_id=SPECIAL.index(PAD),
        eos_token_id=SPECIAL.index(END),
        decoder_start_token_id=SPECIAL.index(PAD),
    )


def _clip_text(directory: Path) -> CLIPTextModel:
    """Load the text tower of the trained CLIP as a separate model."""
    clip = CLIPModel.from_pretrained(directory)
    model = CLIPTextModel(clip.config.text_config)
    # Depending on the transformers version, the tower is the model itself or its attribute `text_model`.
    source, target = (getattr(tower, "text_model", tower) for tower in (clip.text_model, model))
    target.load_state_dict(source.state_dict())
    return model


@torch.no_grad()
def _pooled(model: CLIPTextModel, tokens: Tensor) -> Tensor:
    """Compute pooled prompt embeddings [N, 64] in batches."""
    return torch.cat([model(input_ids=part).pooler_output for part in torch.split(tokens, 4096)])
