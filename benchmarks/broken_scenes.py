"""Scenes with one error that the judge must detect."""

from collections.abc import Callable
from dataclasses import replace

from worker.shapes import IMAGE_SIZE
from worker.shapes import words as w
from worker.shapes.bench.scene import INK, Placed, Scene, solid
from worker.shapes.bench.scene_layout import HIDDEN_SHARE, RADIUS, WHOLE_SHAPES, is_clear, is_inside
from worker.shapes.caption_sampling import Rng, choose
from worker.shapes.words import COLORS, SHAPES, SOLID

TRIES = 20


def break_scene(scene: Scene, rng: Rng) -> tuple[str, Scene] | None:
    """Apply one random change to a scene and return the name of the change and the changed scene.

    Returns None if no recognizable change is found in TRIES attempts.
    """
    for _ in range(TRIES):
        name = choose(rng, tuple(CHANGES))
        index = int(rng.integers(len(scene.objects)))
        things = CHANGES[name](list(scene.objects), index, rng)
        if things and tuple(things) != scene.objects and _is_legible(things):
            return name, replace(scene, objects=tuple(things))
    return None


def _is_legible(things: list[Placed]) -> bool:
    """Whether the objects are recognizable.

    They must be inside the image, must not merge, and the hidden share of a partly hidden object must be in range.
    """
    if not all(map(is_inside, things)):
        return False
    masks = [solid(thing) for thing in things]
    for behind, back in enumerate(things):
        for front in range(behind + 1, len(things)):
            if back.color == things[front].color and not is_clear(back, things[front]):
                return False
            whole = back.style == SOLID and back.shape in WHOLE_SHAPES
            hidden = (masks[behind] & masks[front]).sum() / masks[behind].sum()
            if hidden and not (whole and HIDDEN_SHARE[0] <= hidden <= HIDDEN_SHARE[1]):
                return False
    return True


Change = Callable[[list[Placed], int, Rng], list[Placed] | None]


def _one(change: Callable[[Placed, Rng], Placed | None]) -> Change:
    """Turn a change of a single object into a change of the list of objects."""

    def apply(things: list[Placed], index: int, rng: Rng) -> list[Placed] | None:
        changed = change(things[index], rng)
        return [*things[:index], changed, *things[index + 1 :]] if changed else None

    return apply


def _reshape(thing: Placed, rng: Rng) -> Placed | None:
    if thing.shape in INK:
        return replace(thing, shape=choose(rng, tuple(INK)))
    if thing.style != SOLID:
        return None
    shape = choose(rng, SHAPES)
    return replace(thing, shape=shape, pose=w.UP if shape == "triangle" else w.UPRIGHT)


def _turn(thing: Placed, rng: Rng) -> Placed | None:
    poses = {"triangle": w.POINTING, "cross": (w.UPRIGHT, w.TILTED)}.get(thing.shape)
    # Small crosses are too coarse to be recognized as tilted.
    if poses is None or thing.style != SOLID or thing.radius < RADIUS["large"][0]:
        return None
    return replace(thing, pose=choose(rng, poses))


def _resize(things: list[Placed], index: int, rng: Rng) -> list[Placed] | None:
    thing = things[index]
    if thing.style != SOLID or thing.shape in INK or len(things) > 2:
        return None
    other = "small" if thing.radius >= RADIUS["large"][0] else "large"
    return _one(lambda thing, rng: replace(thing, radius=float(rng.uniform(*RADIUS[other]))))(things, index, rng)


def _add(things: list[Placed], index: int, rng: Rng) -> list[Placed] | None:
    """Add a small object of the same kind."""
    thing = things[index]
    if thing.shape in INK or thing.style != SOLID or thing.pose == w.TILTED:
        return None
    x, y = rng.uniform(4, IMAGE_SIZE - 4, size=2)
    one = replace(thing, radius=float(rng.uniform(*RADIUS["small"])), x=float(x), y=float(y))
    return [*things, one] if all(is_clear(one, other) for other in things) else None


def _mirror(things: list[Placed], index: int, rng: Rng) -> list[Placed]:
    if rng.random() < 0.5:
        return [replace(thing, x=IMAGE_SIZE - thing.x) for thing in things]
    return [replace(thing, y=IMAGE_SIZE - thing.y) for thing in things]


def _move(thing: Placed, rng: Rng) -> Placed:
    x, y = rng.integers(4, IMAGE_SIZE - 4, size=2) + (0.5 if thing.shape in INK else 0.0)
    return replace(thing, x=float(x), y=float(y))


CHANGES: dict[str, Change] = {
    "recolor": _one(lambda thing, rng: replace(thing, color=choose(rng, COLORS))),
    "reshape": _one(_reshape),
    "turn": _one(_turn),
    "restyle": _one(lambda thing, rng: None if thing.style == SOLID else replace(thing, style=SOLID)),
    "resize": _resize,
    "remove": lambda things, index, rng: [*things[:index], *things[index + 1 :]],
    "add": _add,
    "mirror": _mirror,
    "move": _one(_move),
    "reorder": lambda things, index, rng: things[::-1],
}
