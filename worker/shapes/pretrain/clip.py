"""Stage 1: a small CLIP, trained by contrast on rendered scenes. It is the reward, and gives FLUX its pooled prompt."""

from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional
from transformers import CLIPConfig, CLIPImageProcessorPil, CLIPModel, PreTrainedTokenizerFast

from worker.shapes import IMAGE_SIZE, TEXT_LENGTH
from worker.shapes.pretrain.presets import Preset
from worker.shapes.pretrain.record import StageRecord, optimiser
from worker.shapes.pretrain.tokenizers import END, PAD, SPECIAL, START, clip_tokenizer
from worker.shapes.pretrain.worlds import WORLDS, take_over

LARGEST_LOGIT_SCALE = 4.6
"""Logarithm of the sharpest temperature, 100, as in CLIP."""


def train_clip(preset: Preset, out: Path, device: str) -> None:
    """Writes the world's CLIP into `out`: model, tokenizer and image processor."""
    plan, world = preset.clip, WORLDS[preset.world]
    record = StageRecord("clip", preset, device)
    torch.manual_seed(preset.seed)
    model = CLIPModel(_config(len(SPECIAL) + len(world.vocabulary)))
    if world.start:
        take_over(model, CLIPModel.from_pretrained(world.start / "shapes-clip"))
    model = model.to(device).train()
    tokenizer = clip_tokenizer(world.vocabulary)
    scenes = world.scenes(preset.pairs, preset.seed)
    tokens = tokenize(tokenizer, scenes.captions).to(device)
    adam, schedule = optimiser(model.parameters(), plan.learning_rate, plan.steps)
    generator = torch.Generator().manual_seed(preset.seed + 1)
    for batch in scenes.batches(plan.batch, plan.steps, generator, device):
        strength = plan.image_noise * torch.rand(plan.batch, 1, 1, 1, generator=generator)
        noise = strength * torch.randn(batch.images.shape, generator=generator)
        pixels = 2 * (batch.images + noise.to(device)).clamp(0, 1) - 1
        with torch.autocast(torch.device(device).type, torch.bfloat16, enabled=plan.bfloat16):
            output = model(input_ids=tokens[batch.rows], pixel_values=pixels)
        cosines = torch.matmul(output.text_embeds.float(), output.image_embeds.float().t())
        loss = contrastive_loss(cosines * model.logit_scale.exp(), batch.meaning)
        adam.zero_grad(set_to_none=True)
        torch.autograd.backward(loss)
        adam.step()
        schedule.step()
        with torch.no_grad():
            model.logit_scale.clamp_(max=LARGEST_LOGIT_SCALE)
        record.step(loss)

    directory = out / world.clip
    model.eval().cpu().save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    _image_processor().save_pretrained(directory)
    record.finish(out, parameters=model.num_parameters())


def tokenize(tokenizer: PreTrainedTokenizerFast, captions: list[str]) -> Tensor:
    """Token ids [N, 16], padded."""
    encoded = tokenizer(captions, padding="max_length", max_length=TEXT_LENGTH, truncation=True, return_tensors="pt")
    ids: Tensor = encoded["input_ids"]
    return ids


def contrastive_loss(logits: Tensor, meaning: Tensor) -> Tensor:
    """Cross entropy of texts to images and back. Another image of the same scene is no negative: it is left out."""
    same = meaning[:, None] == meaning[None, :]
    same.fill_diagonal_(False)
    logits = logits.masked_fill(same, -torch.inf)
    target = torch.arange(len(logits), device=logits.device)
    return (functional.cross_entropy(logits, target) + functional.cross_entropy(logits.T, target)) / 2


def _config(tokens: int) -> CLIPConfig:
    return CLIPConfig(
        text_config={
            "vocab_size": tokens,
            "hidden_size": 64,
            "intermediate_size": 256,
            "num_hidden_layers": 3,
            "num_attention_heads": 4,
            "max_position_embeddings": TEXT_LENGTH,
            "projection_dim": 64,
            "pad_token_id": SPECIAL.index(PAD),
            "bos_token_id": SPECIAL.index(START),
            "eos_token_id": SPECIAL.index(END),
        },
        vision_config={
            "hidden_size": 96,
            "intermediate_size": 256,
            "num_hidden_layers": 4,
            "num_attention_heads": 4,
            "image_size": IMAGE_SIZE,
            "patch_size": 4,
            "projection_dim": 64,
        },
        projection_dim=64,
    )


def _image_processor() -> CLIPImageProcessorPil:
    # Images come in the tower's own size, so resizing and cropping change nothing; other sizes are brought to it.
    return CLIPImageProcessorPil(
        size={"shortest_edge": IMAGE_SIZE},
        crop_size={"height": IMAGE_SIZE, "width": IMAGE_SIZE},
        image_mean=[0.5, 0.5, 0.5],
        image_std=[0.5, 0.5, 0.5],
    )
