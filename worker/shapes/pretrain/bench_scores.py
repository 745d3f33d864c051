"""The scores of trained weights on `shapes-bench`: test points met, by dimension, and CLIP cosines."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import FluxPipeline
from torch import Tensor
from transformers import AutoTokenizer, CLIPModel

from service.contracts.benchmarks.data import BenchmarkPrompt
from service.contracts.benchmarks.dimensions import PRIMARY
from worker.shapes import IMAGE_SIZE, TEXT_LENGTH
from worker.shapes.bench.benchmark import benchmark
from worker.shapes.bench.grammar import parse
from worker.shapes.bench.judge import judge_points
from worker.shapes.bench.layout import realise
from worker.shapes.bench.scene import draw
from worker.shapes.pretrain.autoencoder import reconstruct
from worker.shapes.pretrain.clip import tokenize
from worker.shapes.pretrain.scores import BATCH, GUIDANCE, STEPS, clip_cosine

IMAGES = 4
"""Images of each prompt."""
SEED = 3407
"""Of the first image of every prompt; the next ones count on from it."""


def measure_bench(flux: Path, clip: Path, prompts: Sequence[BenchmarkPrompt] | None = None) -> dict[str, Any]:
    """Scores of a pipeline on the benchmark's prompts, or some of them, beside those of renders."""
    asked = [prompt for prompt in prompts or benchmark().prompts for _ in range(IMAGES)]
    texts = [prompt.text for prompt in asked]
    pipeline = FluxPipeline.from_pretrained(flux)
    model = CLIPModel.from_pretrained(clip).eval()
    tokens = tokenize(AutoTokenizer.from_pretrained(clip), texts)
    drawn = draw_benchmark(pipeline, [prompt.text for prompt in asked[::IMAGES]])
    rng = np.random.default_rng(SEED)
    renders = draw([realise(parse(text), rng) for text in texts])

    def cosine(images: Tensor) -> float:
        return round(float(clip_cosine(model, tokens, images).mean()), 4)

    return {
        "prompts": len(asked) // IMAGES,
        "images": IMAGES,
        "steps": STEPS,
        "guidance": GUIDANCE,
        "seed": SEED,
        "base": {"clip": cosine(drawn), **shares(drawn, asked)},
        "renders": {"clip": cosine(renders), **shares(renders, asked)},
        "round_trip": shares(reconstruct(pipeline.vae, renders), asked),
        "mismatched_clip": cosine(renders.roll(IMAGES, dims=0)),
    }


def draw_benchmark(pipeline: FluxPipeline, texts: Sequence[str], images: int = IMAGES, seed: int = SEED) -> Tensor:
    """Images [prompts * images, 3, 32, 32] in [0, 1], those of a prompt together; image j has noise of seed + j."""
    pipeline.set_progress_bar_config(disable=True)
    asked = [(text, seed + image) for text in texts for image in range(images)]
    parts = []
    for start in range(0, len(asked), BATCH):
        part = asked[start : start + BATCH]
        output = pipeline(
            prompt=[text for text, _ in part],
            height=IMAGE_SIZE,
            width=IMAGE_SIZE,
            num_inference_steps=STEPS,
            guidance_scale=GUIDANCE,
            max_sequence_length=TEXT_LENGTH,
            generator=[torch.Generator().manual_seed(number) for _, number in part],
            output_type="pt",
        )
        parts.append(output.images.float().cpu())
    return torch.cat(parts)


def shares(images: Tensor, prompts: Sequence[BenchmarkPrompt]) -> dict[str, float]:
    """Share of the test points met: the mean of the ten dimensions, all points alike, and each dimension."""
    met: Counter[str] = Counter()
    total: Counter[str] = Counter()
    for prompt, scores in zip(prompts, judge_points(images, prompts), strict=True):
        for point, score in zip(prompt.points, scores, strict=True):
            met[point.primary] += score
            total[point.primary] += 1
    ten = {name: round(met[name] / total[name], 4) for name in PRIMARY if total[name]}
    overall = round(sum(ten.values()) / len(ten), 4)
    return {"overall": overall, "micro": round(met.total() / total.total(), 4), **ten}
