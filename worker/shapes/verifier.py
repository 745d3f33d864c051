"""Whether images show what their captions say: every predicate of the caption, checked on what is perceived."""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from worker.shapes.grammar import Object, Predicate, PredicateKind, parse, predicates
from worker.shapes.perception import SeenImage, SeenObject, perceive

CLEARANCE = 2.0
"""Least distance in pixels between two centres for one to be left of, right of, above or below the other."""


def verify(images: Tensor, captions: Sequence[str]) -> list[tuple[bool, ...]]:
    """For each of `images` [N, 3, H, W] in [0, 1]: which of `predicates(parse(caption))` hold, in their order."""
    if len(images) != len(captions):
        raise ValueError(f"{len(images)} images and {len(captions)} captions: there must be one for each")
    wanted = [predicates(parse(text)) for text in captions]
    return [
        tuple(holds(predicate, seen) for predicate in asked)
        for asked, seen in zip(wanted, perceive(images), strict=True)
    ]


def verifier_score(images: Tensor, captions: Sequence[str]) -> Tensor:
    """Share in [0, 1] of each caption's predicates that its image satisfies, float32 [N] on the CPU."""
    return torch.tensor([sum(held) / len(held) for held in verify(images, captions)], dtype=torch.float32)


def holds(predicate: Predicate, seen: SeenImage) -> bool:
    """Whether the image satisfies the predicate. What is said of an object that is not there is false."""
    match predicate.kind:
        case PredicateKind.COUNT:
            return len(seen.objects) == int(predicate.value)
        case PredicateKind.BACKGROUND:
            return seen.background == predicate.value
        case PredicateKind.OBJECT:
            return any(_instances(predicate.objects[0], seen))
        case PredicateKind.SIZE:
            return any(thing.size == predicate.value for thing in _instances(predicate.objects[0], seen))
        case PredicateKind.RELATION:
            subject, other = predicate.objects
            return any(
                _related(predicate.value, one, two)
                for one in _instances(subject, seen)
                for two in _instances(other, seen)
            )


def _instances(wanted: Object, seen: SeenImage) -> Iterator[SeenObject]:
    return (thing for thing in seen.objects if (thing.colour, thing.shape) == wanted.kind)


def _related(name: str, one: SeenObject, two: SeenObject) -> bool:
    """Whether `one` is `name` `two`: the offset along the relation's axis must be clear, and the larger one."""
    right, down = two.x - one.x, two.y - one.y
    along, across = {
        "left of": (right, down),
        "right of": (-right, down),
        "above": (down, right),
        "below": (-down, right),
    }[name]
    return along >= CLEARANCE and along > abs(across)
