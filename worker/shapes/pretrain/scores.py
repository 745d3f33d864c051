"""Scores of trained weights: CLIP cosines and shares of satisfied predicates or test points."""

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import FluxPipeline
from torch import Tensor
from torch.nn import functional
from transformers import AutoTokenizer, CLIPModel

from service.contracts.benchmarks.data import BenchmarkPrompt
from service.contracts.benchmarks.dimensions import PRIMARY
from worker.shapes import IMAGE_SIZE, TEXT_LENGTH
from worker.shapes.bench.benchmark import benchmark
from worker.shapes.bench.judge import judge_points
from worker.shapes.bench.scene import draw
from worker.shapes.bench.scene_layout import realize
from worker.shapes.caption_sampling import heldout_prompts
from worker.shapes.grammar import parse
from worker.shapes.pretrain.autoencoder import reconstruct
from worker.shapes.pretrain.clip import tokenize
from worker.shapes.render import render
from worker.shapes.testpoints import predicates
from worker.shapes.verifier import verify

STEPS, GUIDANCE = 8, 3.5
"""Settings for sampling from the base model."""
BATCH = 64
PER_PROMPT = 4
"""Images per benchmark prompt."""
SEED = 3407
"""Seed of the first image of every benchmark prompt."""


def measure(flux: Path, clip: Path, count: int, seed: int, device: str) -> dict[str, Any]:
    """Measure the basic world's weights on `count` held-out prompts.

    Returns the scores of samples, of renders, and of renders paired with the wrong prompts.
    """
    captions = heldout_prompts()[:count]
    real = render([parse(text) for text in captions], seed)
    scores = _measure(flux, clip, captions, seed, None, real, lambda seen: predicate_shares(seen, captions), device)
    return {"prompts": count, "seed": seed, **scores}


def measure_bench(flux: Path, clip: Path, count: int | None = None, device: str = "cpu") -> dict[str, Any]:
    """Measure the weights of the benchmark's world on the first `count` benchmark prompts, or on all if it is None.

    Returns the scores of samples, of renders, and of renders paired with the wrong prompts.
    """
    chosen = benchmark().prompts[:count]
    prompts = [prompt for prompt in chosen for _ in range(PER_PROMPT)]
    rng = np.random.default_rng(SEED)
    real = draw([realize(parse(prompt.text), rng) for prompt in prompts])
    texts = [prompt.text for prompt in chosen]
    scores = _measure(flux, clip, texts, SEED, PER_PROMPT, real, lambda seen: point_shares(seen, prompts), device)
    return {"prompts": len(chosen), "images": PER_PROMPT, "seed": SEED, **scores}


def _measure(
    flux: Path,
    clip: Path,
    texts: Sequence[str],
    seed: int,
    per_prompt: int | None,
    real: Tensor,
    shares: Callable[[Tensor], dict[str, float]],
    device: str,
) -> dict[str, Any]:
    pipeline = FluxPipeline.from_pretrained(flux).to(device)
    model = CLIPModel.from_pretrained(clip).to(device).eval()
    tokens = tokenize(AutoTokenizer.from_pretrained(clip), list(texts)).to(device)
    tokens = tokens.repeat_interleave(per_prompt or 1, 0)
    sampled = sample_images(pipeline, texts, seed, per_prompt)

    def cosine(images: Tensor) -> float:
        return round(float(clip_cosine(model, tokens, images).mean()), 4)

    return {
        "steps": STEPS,
        "guidance": GUIDANCE,
        "base": {"clip": cosine(sampled), **shares(sampled)},
        "renders": {"clip": cosine(real), **shares(real)},
        "round_trip": shares(reconstruct(pipeline.vae, real.to(device))),
        "mismatched_clip": cosine(real.roll(per_prompt or 1, dims=0)),
    }


def sample_images(
    pipeline: FluxPipeline, texts: Sequence[str], seed: int, per_prompt: int | None = None, steps: int = STEPS
) -> Tensor:
    """Sample images [N, 3, 32, 32] in [0, 1] with the unmodified pipeline and return them on the CPU.

    per_prompt: the number of images per prompt; image j uses the noise of `seed` + j. If it is None, there is one image
    per prompt, and all noise comes from one generator.
    """
    pipeline.set_progress_bar_config(disable=True)
    shared = torch.Generator().manual_seed(seed)
    requests = [(text, seed + number) for text in texts for number in range(per_prompt or 1)]
    parts = []
    for start in range(0, len(requests), BATCH):
        part = requests[start : start + BATCH]
        output = pipeline(
            prompt=[text for text, _ in part],
            height=IMAGE_SIZE,
            width=IMAGE_SIZE,
            num_inference_steps=steps,
            guidance_scale=GUIDANCE,
            max_sequence_length=TEXT_LENGTH,
            generator=[torch.Generator().manual_seed(own) for _, own in part] if per_prompt else shared,
            output_type="pt",
        )
        parts.append(output.images.float().cpu())
    return torch.cat(parts)


@torch.no_grad()
def clip_cosine(model: CLIPModel, tokens: Tensor, images: Tensor) -> Tensor:
    """Compute the CLIP cosine similarity [N] of each caption (token ids [N, 16]) and its image in [0, 1]."""
    text = model.get_text_features(input_ids=tokens).pooler_output
    image = model.get_image_features(pixel_values=2 * images.to(tokens.device) - 1).pooler_output
    return functional.cosine_similarity(text, image).cpu()


def predicate_shares(images: Tensor, captions: Sequence[str]) -> dict[str, float]:
    """Compute the mean verifier score and shares of satisfied captions and predicates.

    The first share counts captions whose predicates all hold. The other shares count satisfied predicates by kind.
    """
    held = verify(images, captions)
    kinds: dict[str, list[bool]] = defaultdict(list)
    for text, results in zip(captions, held, strict=True):
        for predicate, result in zip(predicates(parse(text)), results, strict=True):
            kinds[predicate.dimension].append(result)
    return {
        "verifier": _share([sum(row) / len(row) for row in held]),
        "all": _share([all(row) for row in held]),
        **{kind: _share(results) for kind, results in kinds.items()},
    }


def point_shares(images: Tensor, prompts: Sequence[BenchmarkPrompt]) -> dict[str, float]:
    """Compute the share of satisfied test points: the mean over dimensions, over all points, and per dimension."""
    met: dict[str, list[int]] = defaultdict(list)
    for prompt, scores in zip(prompts, judge_points(images, prompts), strict=True):
        for point, score in zip(prompt.points, scores, strict=True):
            met[point.primary].append(score)
    ten = {name: _share(met[name]) for name in PRIMARY if name in met}
    everything = [score for scores in met.values() for score in scores]
    return {"overall": _share(ten.values()), "micro": _share(everything), **ten}


def _share(values: Iterable[float]) -> float:
    values = list(values)
    return round(sum(values) / len(values), 4)
