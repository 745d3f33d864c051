"""Stage 3: the flow transformer and its T5 encoder, trained together on latents: the base of alignment."""

from pathlib import Path

import torch
from diffusers import AutoencoderKL, FlowMatchEulerDiscreteScheduler, FluxPipeline, FluxTransformer2DModel
from torch import Tensor
from transformers import CLIPModel, CLIPTextModel, T5Config, T5EncoderModel

from worker.shapes import TEXT_LENGTH
from worker.shapes.pretrain.autoencoder import LATENT_CHANNELS, encode
from worker.shapes.pretrain.clip import tokenize
from worker.shapes.pretrain.presets import Preset
from worker.shapes.pretrain.record import StageRecord, optimiser
from worker.shapes.pretrain.tokenizers import END, PAD, SPECIAL, clip_tokenizer, t5_tokenizer
from worker.shapes.pretrain.worlds import WORLDS, take_over

SHIFT = 3.0
"""Of the sampling schedule; training draws its times through the same shift."""
GUIDANCE = (1.0, 5.0)
"""Drawn uniformly in training: the model has FLUX.1-dev's guidance input, and its value makes no difference."""
TEXT_WIDTH = 64
ENCODED = 500
"""Images rendered and encoded at once. Every caption has one image, encoded before training: it halves the time."""


def train_flow(preset: Preset, out: Path, device: str) -> None:
    """Writes the world's pipeline into `out`, from the CLIP and the autoencoder of the stages before."""
    plan, world = preset.flow, WORLDS[preset.world]
    record = StageRecord("flow", preset, device)
    autoencoder = AutoencoderKL.from_pretrained(out / world.flux / "vae").to(device).eval()
    clip_text = _clip_text(out / world.clip).to(device).eval()
    torch.manual_seed(preset.seed + 4)
    transformer, t5 = _transformer(), T5EncoderModel(_t5_config(len(SPECIAL) + len(world.vocabulary)))
    if world.start:
        source = world.start / "shapes-flux"
        take_over(transformer, FluxTransformer2DModel.from_pretrained(source / "transformer"))
        take_over(t5, T5EncoderModel.from_pretrained(source / "text_encoder_2"))
    transformer, t5 = transformer.to(device).train(), t5.to(device).train()

    scenes = world.scenes(preset.pairs, preset.seed)
    t5_tokens = tokenize(t5_tokenizer(world.vocabulary), scenes.captions).to(device)
    pooled = _pooled(clip_text, tokenize(clip_tokenizer(world.vocabulary), scenes.captions).to(device))
    latents = torch.cat(
        [packed_latents(autoencoder, batch.images) for batch in scenes.in_order(ENCODED, preset.seed, device)]
    )
    parameters = [*transformer.parameters(), *t5.parameters()]
    adam, schedule = optimiser(parameters, plan.learning_rate, plan.schedule_steps)
    generator = torch.Generator().manual_seed(preset.seed + 5)
    for step in range(1, plan.steps + 1):
        rows = torch.randint(len(latents), (plan.batch,), generator=generator).to(device)
        clean = latents[rows]
        noise = torch.randn(clean.shape, generator=generator).to(device)
        sigma = _training_sigmas(plan.batch, generator).to(device)
        guidance = torch.empty(plan.batch).uniform_(*GUIDANCE, generator=generator).to(device)
        noisy = (1 - sigma[:, None, None]) * clean + sigma[:, None, None] * noise
        # No attention mask: the pipeline has none either, so padding is part of the prompt.
        with torch.autocast(torch.device(device).type, torch.bfloat16, enabled=plan.bfloat16):
            text = t5(input_ids=t5_tokens[rows]).last_hidden_state
            velocity = transformer(
                hidden_states=noisy,
                timestep=sigma,
                guidance=guidance,
                pooled_projections=pooled[rows],
                encoder_hidden_states=text,
                txt_ids=torch.zeros(TEXT_LENGTH, 3, device=device),
                img_ids=_image_ids(device),
                return_dict=False,
            )[0]
        loss = (velocity.float() - (noise - clean)).square().mean()
        adam.zero_grad(set_to_none=True)
        torch.autograd.backward(loss)
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        adam.step()
        schedule.step()
        record.step(loss)
        if step in plan.snapshots:
            transformer.save_pretrained(out / "snapshots" / str(step) / "transformer")
            t5.save_pretrained(out / "snapshots" / str(step) / "text_encoder_2")

    autoencoder.register_to_config(_name_or_path="")  # else the shipped file would name a directory of this machine
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
    record.finish(out, parameters=transformer.num_parameters(), t5_parameters=t5.num_parameters())


def packed_latents(autoencoder: AutoencoderKL, images: Tensor) -> Tensor:
    """Normalised latents of images in [0, 1] as the transformer takes them: [N, 16 tokens, 32 channels]."""
    config = autoencoder.config
    latents = (encode(autoencoder, images) - config["shift_factor"]) * config["scaling_factor"]
    packed: Tensor = FluxPipeline._pack_latents(latents, len(latents), *latents.shape[1:])
    return packed


def _training_sigmas(count: int, generator: torch.Generator) -> Tensor:
    """Noise levels [N] in (0, 1): logit-normal, then moved by the sampling schedule's shift."""
    normal = torch.sigmoid(torch.randn(count, generator=generator))
    return SHIFT * normal / (1 + (SHIFT - 1) * normal)


def _image_ids(device: str) -> Tensor:
    ids: Tensor = FluxPipeline._prepare_latent_image_ids(1, 4, 4, device, torch.float32)
    return ids


def _transformer() -> FluxTransformer2DModel:
    heads, width = 3, 32
    model = FluxTransformer2DModel(
        patch_size=1,
        in_channels=4 * LATENT_CHANNELS,
        num_layers=2,
        num_single_layers=4,
        attention_head_dim=width,
        num_attention_heads=heads,
        joint_attention_dim=TEXT_WIDTH,
        pooled_projection_dim=TEXT_WIDTH,
        guidance_embeds=True,
        axes_dims_rope=(8, 12, 12),
    )
    # Modulation and output start at zero, so that every block starts as the identity: much faster early training.
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
    """The text tower of the trained CLIP as a model of its own."""
    clip = CLIPModel.from_pretrained(directory)
    model = CLIPTextModel(clip.config.text_config)
    # Depending on the version of transformers the tower is the model itself or its part `text_model`.
    target = model.text_model if hasattr(model, "text_model") else model
    source = clip.text_model
    target.load_state_dict((source.text_model if hasattr(source, "text_model") else source).state_dict())
    return model


@torch.no_grad()
def _pooled(model: CLIPTextModel, tokens: Tensor) -> Tensor:
    """Pooled prompts [N, 64], a few thousand at a time."""
    return torch.cat([model(input_ids=part).pooler_output for part in torch.split(tokens, 4096)])
