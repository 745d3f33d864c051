"""Stage 2: a light AutoencoderKL, 32x32x3 to 8x8x8, whose latents are brought to zero mean and unit variance."""

import shutil
from pathlib import Path

import torch
from diffusers import AutoencoderKL
from torch import Tensor

from worker.shapes import IMAGE_SIZE
from worker.shapes.grammar import heldout_prompts, parse
from worker.shapes.pretrain.data import TrainingScenes
from worker.shapes.pretrain.presets import AutoencoderPlan, Preset
from worker.shapes.pretrain.record import StageRecord, optimiser
from worker.shapes.pretrain.worlds import WORLDS
from worker.shapes.render import render

LATENT_CHANNELS = 8


def train_autoencoder(preset: Preset, out: Path, device: str) -> None:
    """Writes the autoencoder of the world's pipeline into `out`; a world that starts from another has that one's."""
    plan, world = preset.autoencoder, WORLDS[preset.world]
    if world.start:
        shutil.copytree(world.start / "shapes-flux" / "vae", out / world.flux / "vae", dirs_exist_ok=True)
        return
    record = StageRecord("autoencoder", preset, device)
    torch.manual_seed(preset.seed + 2)
    model = _build(plan).to(device).train()
    scenes = TrainingScenes(preset.pairs, preset.seed)
    adam, schedule = optimiser(model.parameters(), plan.learning_rate, plan.steps)
    generator = torch.Generator().manual_seed(preset.seed + 3)
    for batch in scenes.batches(plan.batch, plan.steps, generator, device):
        images = 2 * batch.images - 1
        posterior = model.encode(images).latent_dist
        noise = torch.randn(posterior.mean.shape, generator=generator).to(device)
        decoded = model.decode(posterior.mean + posterior.std * noise).sample
        error = decoded - images
        # The squared error is for the few pixels of outlines, which decide about shapes and weigh little in the mean.
        loss = error.abs().mean() + error.square().mean() + plan.kl_weight * posterior.kl().mean() / noise[0].numel()
        adam.zero_grad(set_to_none=True)
        torch.autograd.backward(loss)
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        adam.step()
        schedule.step()
        record.step(loss)

    model.eval()
    training = next(scenes.batches(1024, 1, generator, device)).images
    latents = encode(model, training)
    model.register_to_config(shift_factor=float(latents.mean()), scaling_factor=float(1 / latents.std()))
    unseen = render([parse(text) for text in heldout_prompts(256)], preset.seed).to(device)
    l1 = (reconstruct(model, unseen) - unseen).abs().mean()
    spread = latents.std(dim=(0, 2, 3)) / latents.std()
    model.cpu().save_pretrained(out / world.flux / "vae")
    record.finish(
        out,
        parameters=model.num_parameters(),
        shift_factor=model.config["shift_factor"],
        scaling_factor=model.config["scaling_factor"],
        heldout_l1=round(float(l1), 5),
        channel_deviation=[round(float(value), 2) for value in spread],
    )


@torch.no_grad()
def encode(model: AutoencoderKL, images: Tensor) -> Tensor:
    """Raw latents [N, 8, 8, 8] of images in [0, 1]: the posterior's mean, before shift and scale."""
    latents: Tensor = model.encode(2 * images - 1).latent_dist.mean
    return latents


@torch.no_grad()
def reconstruct(model: AutoencoderKL, images: Tensor) -> Tensor:
    """`images` in [0, 1] after a round trip through the latents."""
    decoded: Tensor = model.decode(encode(model, images)).sample
    return (decoded / 2 + 0.5).clamp(0, 1)


def _build(plan: AutoencoderPlan) -> AutoencoderKL:
    levels = len(plan.channels)
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * levels,
        up_block_types=("UpDecoderBlock2D",) * levels,
        block_out_channels=plan.channels,
        layers_per_block=1,
        latent_channels=LATENT_CHANNELS,
        norm_num_groups=plan.norm_groups,
        sample_size=IMAGE_SIZE,
        force_upcast=False,
        use_quant_conv=False,
        use_post_quant_conv=False,
        mid_block_add_attention=False,
    )
