"""The benchmark's judge, which decides whether an image satisfies each test point of a prompt."""

from collections.abc import Sequence

import torch
from torch import Tensor

from service.contracts.benchmarks.data import BenchmarkPrompt
from worker.shapes.bench.perception import perceive
from worker.shapes.grammar import parse
from worker.shapes.image_content import PerceivedImage
from worker.shapes.testpoint_rules import holds
from worker.shapes.testpoints import points

CHUNK = 64
"""Images perceived per batch."""


def judge_points(images: Tensor, prompts: Sequence[BenchmarkPrompt | str]) -> list[tuple[int, ...]]:
    """Judge each of `images` [N, 3, H, W] in [0, 1]: 1 for each satisfied test point of its prompt, otherwise 0.

    The test points are derived from the prompt's text. Raises ValueError if the numbers of images and prompts differ,
    if a prompt is not a caption of the benchmark's world, or if its listed test points differ from the derived ones.
    """
    if len(images) != len(prompts):
        raise ValueError(f"{len(images)} images and {len(prompts)} prompts: the numbers must be equal")
    return judge_seen([one for part in torch.split(images, CHUNK) for one in perceive(part)], prompts)


def judge_seen(seen: Sequence[PerceivedImage], prompts: Sequence[BenchmarkPrompt | str]) -> list[tuple[int, ...]]:
    """Judge images that have already been perceived, as `judge_points` does."""
    wanted = [points(parse(prompt if isinstance(prompt, str) else prompt.text)) for prompt in prompts]
    for prompt, expected in zip(prompts, wanted, strict=True):
        if not isinstance(prompt, str):
            dimensions, given = [one.dimension for one in expected], [one.dimension for one in prompt.points]
            if dimensions != given:
                raise ValueError(
                    f"prompt {prompt.index}, {prompt.text!r}, has the test points {given}, not {dimensions}"
                )
    return [tuple(int(holds(point, one)) for point in expected) for expected, one in zip(wanted, seen, strict=True)]


def bench_score(images: Tensor, captions: Sequence[str]) -> Tensor:
    """Compute the share in [0, 1] of each caption's test points that its image satisfies, float32 [N] on the CPU."""
    return torch.tensor([sum(met) / len(met) for met in judge_points(images, captions)], dtype=torch.float32)
