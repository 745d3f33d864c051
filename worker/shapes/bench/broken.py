"""Scenes in which one thing is broken: what the judge has to notice."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from worker.shapes import IMAGE_SIZE
from worker.shapes.bench import words as say
from worker.shapes.bench.glyphs import GLYPHS
from worker.shapes.bench.layout import GAP, GAP_BELOW, HIDDEN_SHARE, RADIUS, WHOLE_SHAPES, is_clear, is_inside
from worker.shapes.bench.scene import Placed, Scene, mask
from worker.shapes.bench.words import COLOURS, SHAPES, SOLID

Rng = np.random.Generator
TRIES = 20


def break_scene(scene: Scene, rng: Rng) -> tuple[str, Scene] | None:
    """The scene with one thing changed and what that is; None: nothing was found that can still be recognised."""
    for _ in range(TRIES):
        name = tuple(WAYS)[int(rng.integers(len(WAYS)))]
        place = int(rng.integers(len(scene.objects)))
        things = WAYS[name](list(scene.objects), place, rng)
        if things and tuple(things) != scene.objects and _is_legible(things):
            return name, replace(scene, objects=tuple(things))
    return None


def _is_legible(things: list[Placed]) -> bool:
    """Whether everything is in the image, nothing runs together, and nothing is hidden a little or too much."""
    if not all(map(is_inside, things)):
        return False
    masks = [mask(thing).numpy() >= 0.5 for thing in things]
    for behind, back in enumerate(things):
        for front in range(behind + 1, len(things)):
            near = not is_clear(back, things[front], (GAP, GAP_BELOW))
            hidden = (masks[behind] & masks[front]).sum() / masks[behind].sum()
            if near and back.colour == things[front].colour:
                return False
            whole = back.style == SOLID and back.shape in WHOLE_SHAPES
            if hidden and not (whole and HIDDEN_SHARE[0] <= hidden <= HIDDEN_SHARE[1]):
                return False
    return True


def _recoloured(things: list[Placed], place: int, rng: Rng) -> list[Placed]:
    return _with(things, place, replace(things[place], colour=_choose(rng, COLOURS)))


def _reshaped(things: list[Placed], place: int, rng: Rng) -> list[Placed] | None:
    thing = things[place]
    if thing.shape in GLYPHS:
        return _with(things, place, replace(thing, shape=_choose(rng, tuple(GLYPHS))))
    if thing.style != SOLID:
        return None
    shape = _choose(rng, SHAPES)
    return _with(things, place, replace(thing, shape=shape, pose=say.UP if shape == "triangle" else say.UPRIGHT))


def _turned(things: list[Placed], place: int, rng: Rng) -> list[Placed] | None:
    thing = things[place]
    poses = {"triangle": say.POINTING, "cross": (say.UPRIGHT, say.TILTED)}.get(thing.shape)
    # Small crosses are too coarse to look tilted.
    if poses is None or thing.style != SOLID or thing.radius < RADIUS["large"][0]:
        return None
    return _with(things, place, replace(thing, pose=_choose(rng, poses)))


def _restyled(things: list[Placed], place: int, rng: Rng) -> list[Placed] | None:
    return None if things[place].style == SOLID else _with(things, place, replace(things[place], style=SOLID))


def _resized(things: list[Placed], place: int, rng: Rng) -> list[Placed] | None:
    thing = things[place]
    if thing.style != SOLID or thing.shape in GLYPHS or len(things) > 2:
        return None
    other = "small" if thing.radius >= RADIUS["large"][0] else "large"
    return _with(things, place, replace(thing, radius=float(rng.uniform(*RADIUS[other]))))


def _removed(things: list[Placed], place: int, rng: Rng) -> list[Placed]:
    return [*things[:place], *things[place + 1 :]]


def _added(things: list[Placed], place: int, rng: Rng) -> list[Placed] | None:
    """Another small one of the same kind."""
    thing = things[place]
    if thing.shape in GLYPHS or thing.style != SOLID or thing.pose == say.TILTED:
        return None
    x, y = rng.uniform(4, IMAGE_SIZE - 4, size=2)
    one = replace(thing, radius=float(rng.uniform(*RADIUS["small"])), x=float(x), y=float(y))
    return [*things, one] if all(is_clear(one, other, (GAP, GAP_BELOW)) for other in things) else None


def _mirrored(things: list[Placed], place: int, rng: Rng) -> list[Placed]:
    if rng.random() < 0.5:
        return [replace(thing, x=IMAGE_SIZE - thing.x) for thing in things]
    return [replace(thing, y=IMAGE_SIZE - thing.y) for thing in things]


def _moved(things: list[Placed], place: int, rng: Rng) -> list[Placed]:
    x, y = rng.integers(4, IMAGE_SIZE - 4, size=2)
    half = (0.5, 0.5) if things[place].shape in GLYPHS else (0.0, 0.0)
    return _with(things, place, replace(things[place], x=float(x) + half[0], y=float(y) + half[1]))


def _reordered(things: list[Placed], place: int, rng: Rng) -> list[Placed]:
    return things[::-1]


WAYS: dict[str, Callable[[list[Placed], int, Rng], list[Placed] | None]] = {
    "recoloured": _recoloured,
    "reshaped": _reshaped,
    "turned": _turned,
    "restyled": _restyled,
    "resized": _resized,
    "removed": _removed,
    "added": _added,
    "mirrored": _mirrored,
    "moved": _moved,
    "reordered": _reordered,
}


def _with(things: list[Placed], place: int, thing: Placed) -> list[Placed]:
    return [*things[:place], thing, *things[place + 1 :]]


def _choose(rng: Rng, options: tuple[str, ...]) -> str:
    return options[int(rng.integers(len(options)))]
