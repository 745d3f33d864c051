"""Stage 2: a small AutoencoderKL that maps 32x32x3 images to normalized 8x8x8 latents."""

import shutil
from pathlib import Path

import torch
from diffusers import AutoencoderKL
from torch import Tensor

from worker.shapes import IMAGE_SIZE
from worker.shapes.caption_sampling import heldout_prompts
from worker.shapes.grammar import parse
from worker.shapes.pretrain.presets import Preset
from worker.shapes.pretrain.stage import Stage
from worker.shapes.pretrain.worlds import WORLDS
from worker.shapes.render import render

LATENT_CHANNELS = 8
CHANNELS = (8, 16, 32)
"""Widths at 32, 16 and 8 pixels. High resolutions have few channels, because decoding must be cheap on a CPU."""
KL_WEIGHT = 1e-4


def train_autoencoder(preset: Preset, out: Path, device: str) -> None:
    """Train the autoencoder of the world's pipeline and write it to `out`.

    If the world starts from earlier weights, their autoencoder is copied instead.
    """
    world = WORLDS[preset.world]
    if world.start:
        shutil.copytree(world.start / "shapes-flux" / "vae", out / world.flux / "vae", dirs_exist_ok=True)
        return
    stage = Stage("autoencoder", preset, out, device, preset.seed + 3)
    torch.manual_seed(preset.seed + 2)
    model = _build().to(device).train()
    scenes = world.scenes(preset.pairs, preset.seed)

    def loss() -> Tensor:
        images = 2 * scenes.sample(stage.plan.batch, stage.generator, device).images - 1
        posterior = model.encode(images).latent_dist
        noise = torch.randn(posterior.mean.shape, generator=stage.generator).to(device)
        error = model.decode(posterior.mean + posterior.std * noise).sample - images
        # The squared error emphasizes the few outline pixels, which determine the shapes but hardly affect the mean.
        total: Tensor = (
            error.abs().mean() + error.square().mean() + KL_WEIGHT * posterior.kl().mean() / noise[0].numel()
        )
        return total

    stage.train([model], loss, max_norm=1.0)
    model.eval()
    latents = encode(model, scenes.sample(1024, stage.generator, device).images)
    model.register_to_config(shift_factor=float(latents.mean()), scaling_factor=float(1 / latents.std()))
    unseen = render([parse(text) for text in heldout_prompts(256)], preset.seed).to(device)
    l1 = (reconstruct(model, unseen) - unseen).abs().mean()
    spread = latents.std(dim=(0, 2, 3)) / latents.std()
    model.cpu().save_pretrained(out / world.flux / "vae")
    stage.finish(
        parameters=model.num_parameters(),
        shift_factor=model.config["shift_factor"],
        scaling_factor=model.config["scaling_factor"],
        heldout_l1=round(float(l1), 5),
        channel_deviation=[round(float(value), 2) for value in spread],
    )


@torch.no_grad()
def encode(model: AutoencoderKL, images: Tensor) -> Tensor:
    """Encode images in [0, 1] into raw latents [N, 8, 8, 8]: the posterior mean before shift and scale."""
    latents: Tensor = model.encode(2 * images - 1).latent_dist.mean
    return latents


@torch.no_grad()
def reconstruct(model: AutoencoderKL, images: Tensor) -> Tensor:
    """Encode and decode images in [0, 1]."""
    decoded: Tensor = model.decode(encode(model, images)).sample
    return (decoded / 2 + 0.5).clamp(0, 1)


def _build() -> AutoencoderKL:
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * len(CHANNELS),
        up_block_types=("UpDecoderBlock2D",) * len(CHANNELS),
        block_out_channels=CHANNELS,
        layers_per_block=1,
        latent_channels=LATENT_CHANNELS,
        norm_num_groups=2,  # a one-channel group would lose the mean, the only information in a plain background
        sample_size=IMAGE_SIZE,
        force_upcast=False,
        use_quant_conv=False,
        use_post_quant_conv=False,
        mid_block_add_attention=False,
    )
