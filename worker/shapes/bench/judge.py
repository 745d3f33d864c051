"""The benchmark's judge: for every test point of a prompt, whether an image meets it."""

from collections.abc import Sequence

import torch
from torch import Tensor

from service.contracts.benchmarks.data import BenchmarkPrompt
from worker.shapes.bench.grammar import parse
from worker.shapes.bench.perception import perceive
from worker.shapes.bench.points import points
from worker.shapes.bench.rules import holds
from worker.shapes.bench.seen import SeenImage

NAME = "shapes-bench-rules-1"
"""Of this judge, beside every score: a change of rules or perception is another judge."""
CHUNK = 64
"""Images looked at together."""


def judge_points(images: Tensor, prompts: Sequence[BenchmarkPrompt | str]) -> list[tuple[int, ...]]:
    """For each of `images` [N, 3, H, W] in [0, 1]: 1 for each of its prompt's test points that it meets, else 0.

    The points are those of the prompt's text, in the benchmark's order. ValueError if a prompt is no caption of the
    benchmark's world, or has other test points than its text.
    """
    if len(images) != len(prompts):
        raise ValueError(f"{len(images)} images and {len(prompts)} prompts: there must be one for each")
    return judge_seen([one for part in torch.split(images, CHUNK) for one in perceive(part)], prompts)


def judge_seen(seen: Sequence[SeenImage], prompts: Sequence[BenchmarkPrompt | str]) -> list[tuple[int, ...]]:
    """`judge_points` of images that were perceived already."""
    asked = [points(parse(prompt if isinstance(prompt, str) else prompt.text)) for prompt in prompts]
    for prompt, wanted in zip(prompts, asked, strict=True):
        if not isinstance(prompt, str):
            expected, given = [one.dimension for one in wanted], [one.dimension for one in prompt.points]
            if expected != given:
                raise ValueError(f"prompt {prompt.index}, {prompt.text!r}, has the test points {given}, not {expected}")
    return [tuple(int(holds(point, one)) for point in wanted) for wanted, one in zip(asked, seen, strict=True)]


def bench_score(images: Tensor, captions: Sequence[str]) -> Tensor:
    """Share in [0, 1] of each caption's test points that its image meets, float32 [N] on the CPU."""
    return torch.tensor([sum(met) / len(met) for met in judge_points(images, captions)], dtype=torch.float32)
