"""Verification of images of the basic world against their captions."""

from collections.abc import Sequence

import torch
from torch import Tensor

from worker.shapes.grammar import parse
from worker.shapes.perception import perceive
from worker.shapes.testpoint_rules import holds
from worker.shapes.testpoints import predicates


def verify(images: Tensor, captions: Sequence[str]) -> list[tuple[bool, ...]]:
    """Check which predicates of its caption each of `images` [N, 3, H, W] in [0, 1] satisfies.

    Results are in the order of `predicates(parse(caption))`. Raises ValueError if the numbers of images and captions
    differ or a caption is invalid.
    """
    if len(images) != len(captions):
        raise ValueError(f"{len(images)} images and {len(captions)} captions: the numbers must be equal")
    wanted = [predicates(parse(text)) for text in captions]
    seen = perceive(images)
    return [tuple(holds(point, one) for point in points) for points, one in zip(wanted, seen, strict=True)]


def verifier_score(images: Tensor, captions: Sequence[str]) -> Tensor:
    """Compute the share in [0, 1] of each caption's predicates that hold in its image, float32 [N] on the CPU."""
    return torch.tensor([sum(row) / len(row) for row in verify(images, captions)], dtype=torch.float32)
