"""Stage 1: a small CLIP trained contrastively on rendered scenes.

It serves as the CLIP reward and as the pooled text encoder of the FLUX pipeline.
"""

from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional
from transformers import CLIPConfig, CLIPImageProcessorPil, CLIPModel, PreTrainedTokenizerFast

from worker.shapes import IMAGE_SIZE, TEXT_LENGTH
from worker.shapes.pretrain.presets import Preset
from worker.shapes.pretrain.stage import Stage
from worker.shapes.pretrain.tokenizers import END, PAD, SPECIAL, START, clip_tokenizer
from worker.shapes.pretrain.worlds import WORLDS, initialize

MAX_LOGIT_SCALE = 4.6
"""Logarithm of the maximum logit scale, about 100 as in CLIP."""
IMAGE_NOISE = 0.05
"""Maximum standard deviation of the noise on training images. Noise makes the score insensitive to faint artifacts."""


def train_clip(preset: Preset, out: Path, device: str) -> None:
    """Train the world's CLIP and write model, tokenizer and image processor to `out`."""
    world = WORLDS[preset.world]
    stage = Stage("clip", preset, out, device, preset.seed + 1)
    plan = stage.plan
    torch.manual_seed(preset.seed)
    model = CLIPModel(_config(len(SPECIAL) + len(world.vocabulary)))
    if world.start:
        initialize(model, CLIPModel.from_pretrained(world.start / "shapes-clip"))
    model = model.to(device).train()
    tokenizer = clip_tokenizer(world.vocabulary)
    scenes = world.scenes(preset.pairs, preset.seed)
    tokens = tokenize(tokenizer, scenes.captions).to(device)

    def loss() -> Tensor:
        batch = scenes.sample(plan.batch, stage.generator, device)
        strength = IMAGE_NOISE * torch.rand(plan.batch, 1, 1, 1, generator=stage.generator)
        noise = strength * torch.randn(batch.images.shape, generator=stage.generator)
        pixels = 2 * (batch.images + noise.to(device)).clamp(0, 1) - 1
        with torch.autocast(torch.device(device).type, torch.bfloat16, enabled=plan.bfloat16):
            output = model(input_ids=tokens[batch.rows], pixel_values=pixels)
        cosines = torch.matmul(output.text_embeds.float(), output.image_embeds.float().t())
        return contrastive_loss(cosines * model.logit_scale.exp(), batch.meaning)

    stage.train([model], loss, after_step=lambda: model.logit_scale.data.clamp_(max=MAX_LOGIT_SCALE))
    directory = out / world.clip
    model.eval().cpu().save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    _image_processor().save_pretrained(directory)
    stage.finish(parameters=model.num_parameters())


def tokenize(tokenizer: PreTrainedTokenizerFast, captions: list[str]) -> Tensor:
    """Tokenize captions into padded token ids [N, 16]."""
    encoded = tokenizer(captions, padding="max_length", max_length=TEXT_LENGTH, truncation=True, return_tensors="pt")
    ids: Tensor = encoded["input_ids"]
    return ids


def contrastive_loss(logits: Tensor, meaning: Tensor) -> Tensor:
    """Compute the symmetric cross entropy of texts and images.

    Other images of a scene with the same meaning are masked, so that they do not count as negatives.
    """
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
    # Images of the tower's input size stay unchanged; images of other sizes are resized and cropped.
    return CLIPImageProcessorPil(
        size={"shortest_edge": IMAGE_SIZE},
        crop_size={"height": IMAGE_SIZE, "width": IMAGE_SIZE},
        image_mean=[0.5, 0.5, 0.5],
        image_std=[0.5, 0.5, 0.5],
    )
