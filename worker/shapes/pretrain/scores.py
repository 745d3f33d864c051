"""The scores of trained weights: CLIP cosines and verified predicates, on held-out prompts."""

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from diffusers import FluxPipeline
from torch import Tensor
from torch.nn import functional
from transformers import AutoTokenizer, CLIPModel

from worker.shapes import IMAGE_SIZE, TEXT_LENGTH
from worker.shapes.grammar import heldout_prompts, parse, predicates
from worker.shapes.pretrain.autoencoder import reconstruct
from worker.shapes.pretrain.clip import tokenize
from worker.shapes.render import render
from worker.shapes.verifier import verify

STEPS, GUIDANCE = 8, 3.5
"""How the base is sampled for its scores."""
BATCH = 64


def measure(out: Path, prompts: int, seed: int, device: str) -> dict[str, Any]:
    """Scores of `out/shapes-flux` and `out/shapes-clip`: of the base's images, of renders, and of wrong pairs."""
    captions = heldout_prompts()[:prompts]
    pipeline = FluxPipeline.from_pretrained(out / "shapes-flux").to(device)
    clip = CLIPModel.from_pretrained(out / "shapes-clip").to(device).eval()
    tokens = tokenize(AutoTokenizer.from_pretrained(out / "shapes-clip"), list(captions)).to(device)
    real = render([parse(text) for text in captions], seed)
    drawn = draw_images(pipeline, captions, seed)
    return {
        "prompts": prompts,
        "steps": STEPS,
        "guidance": GUIDANCE,
        "seed": seed,
        "base": {"clip": _mean(clip_cosine(clip, tokens, drawn)), **predicate_shares(drawn, captions)},
        "renders": {"clip": _mean(clip_cosine(clip, tokens, real)), **predicate_shares(real, captions)},
        "round_trip": predicate_shares(reconstruct(pipeline.vae, real.to(device)), captions),
        "mismatched_clip": _mean(clip_cosine(clip, tokens, real.roll(1, dims=0))),
    }


def draw_images(pipeline: FluxPipeline, captions: Sequence[str], seed: int, steps: int = STEPS) -> Tensor:
    """Images [N, 3, 32, 32] in [0, 1] on the CPU, by the plain pipeline. The noise comes from a CPU generator."""
    pipeline.set_progress_bar_config(disable=True)
    generator = torch.Generator().manual_seed(seed)
    parts = []
    for start in range(0, len(captions), BATCH):
        output = pipeline(
            prompt=list(captions[start : start + BATCH]),
            height=IMAGE_SIZE,
            width=IMAGE_SIZE,
            num_inference_steps=steps,
            guidance_scale=GUIDANCE,
            max_sequence_length=TEXT_LENGTH,
            generator=generator,
            output_type="pt",
        )
        parts.append(output.images.float().cpu())
    return torch.cat(parts)


@torch.no_grad()
def clip_cosine(model: CLIPModel, tokens: Tensor, images: Tensor) -> Tensor:
    """Cosine [N] of each caption (token ids [N, 16]) to its image in [0, 1]."""
    text = model.get_text_features(input_ids=tokens).pooler_output
    image = model.get_image_features(pixel_values=2 * images.to(tokens.device) - 1).pooler_output
    return functional.cosine_similarity(text, image).cpu()


def predicate_shares(images: Tensor, captions: Sequence[str]) -> dict[str, float]:
    """Mean verifier score, the share of captions wholly satisfied, and the share of each kind of predicate."""
    held = verify(images, captions)
    kinds: dict[str, list[bool]] = defaultdict(list)
    for text, results in zip(captions, held, strict=True):
        for predicate, result in zip(predicates(parse(text)), results, strict=True):
            kinds[predicate.kind.value].append(result)
    return {
        "verifier": round(sum(sum(row) / len(row) for row in held) / len(held), 4),
        "all": round(sum(all(row) for row in held) / len(held), 4),
        **{kind: round(sum(results) / len(results), 4) for kind, results in kinds.items()},
    }


def _mean(values: Tensor) -> float:
    return round(float(values.mean()), 4)
