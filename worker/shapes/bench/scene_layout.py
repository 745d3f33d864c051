"""Random scenes that satisfy every test point of a sentence. Properties that the sentence omits are random."""

from dataclasses import replace

import numpy as np

from worker.shapes import IMAGE_SIZE
from worker.shapes import words as w
from worker.shapes.bench.scene import INK, STRIPED_HEIGHT, Placed, Scene, ground_truth, half_extent, solid
from worker.shapes.caption_sampling import Rng, choose
from worker.shapes.grammar import Clause, Form, Phrase, Sentence
from worker.shapes.testpoint_rules import holds
from worker.shapes.testpoints import points
from worker.shapes.words import COLORS, OUTLINED, SIZES, STRIPED

RADIUS = {"small": (3.3, 3.9), "large": (5.6, 6.4)}
OUTLINED_RADIUS, TRIANGLE_RADIUS = (6.2, 7.0), (7.2, 8.0)
"""Radius ranges in pixels for outlined objects, and for outlined triangles, which have smaller holes."""
RING_RADIUS, BACK_RADIUS = (11.0, 12.5), (6.6, 7.6)
"""Radius ranges in pixels for objects that contain another object, and for partly hidden objects."""
STYLED_SHAPES = {OUTLINED: ("circle", "square", "triangle", "diamond"), STRIPED: ("circle", "square", "triangle")}
"""Shapes that are recognizable in each style."""
WHOLE_SHAPES = ("circle", "square", "triangle", "diamond")
"""Shapes that are recognizable when a part is hidden."""
RING_SHAPES = ("circle", "square")
HIDDEN_SHARE = (0.18, 0.42)
"""Minimum and maximum hidden share of a partly hidden object."""
MARGIN, GAPS, LINE_GAP_BELOW = 0.5, (2.5, 4.5), 3.3
"""Minimum distances in pixels: to the image edge, to objects on the right and below, and to the next in a column.

The gap below exceeds the gap between stripes. It is smaller in a column, because a column of three has less room.
"""
TRIES = 400


class NoScene(ValueError):
    """Raised if no scene is found, because the objects do not fit into the image."""


def realize(sentence: Sentence, rng: Rng) -> Scene:
    """Generate a random scene that satisfies every test point of `sentence`. Raises NoScene if none is found."""
    wanted = points(sentence)
    for _ in range(TRIES):
        things = _arrange(sentence, _things(sentence, rng), rng)
        if things is None:
            continue
        scene = Scene(tuple(things), sentence.background)
        seen = ground_truth(scene)
        if all(holds(point, seen) for point in wanted):
            return scene
    raise NoScene(f"no scene found in {TRIES} tries for {sentence}")


def _things(sentence: Sentence, rng: Rng) -> list[Placed]:
    """Create the objects of a sentence, without positions."""
    phrases = sentence.phrases
    if sentence.form is Form.EITHER:
        phrases = (choose(rng, phrases),)
    counts = [phrase.count for phrase in phrases]
    if sentence.form is Form.COUNTS:
        same = int(rng.integers(1, 3))
        counts = [same, same] if sentence.word == w.AS_MANY else [int(rng.integers(2, 4)), 1]
    shared = choose(rng, COLORS)
    things: list[Placed] = []
    for index, (phrase, count) in enumerate(zip(phrases, counts, strict=True)):
        one = _thing(phrase, sum(counts), sentence, index, shared, rng)
        mixed = phrase.resolved_color is None and sentence.clause is Clause.WITHOUT
        things += [replace(one, color=choose(rng, COLORS)) if mixed else one for _ in range(count)]
    return things


def _thing(phrase: Phrase, total: int, sentence: Sentence, index: int, shared: str, rng: Rng) -> Placed:
    relation = sentence.word if sentence.form is Form.PAIR else ""
    behind = relation in w.DEPTHS and index == (1 if relation == "in front of" else 0)
    shape = choose(rng, phrase.possible_shapes)
    color = phrase.resolved_color or _open_color(sentence, index, shared, rng)
    pose = phrase.pose or (w.UP if shape == "triangle" else w.UPRIGHT)
    size = phrase.size or ("small" if total > 2 else choose(rng, SIZES))
    style = phrase.style or w.SOLID
    if relation in w.COMPARISONS:
        size = "large" if (relation == "larger than") == (index == 0) else "small"
    if phrase.style or phrase.pose or behind:
        size = phrase.size or "large"
    radius = float(rng.uniform(*RADIUS[size]))
    if relation == w.INSIDE:
        style, radius = (OUTLINED, rng.uniform(*RING_RADIUS)) if index else (style, rng.uniform(*RADIUS["small"]))
    elif behind:
        radius = rng.uniform(*BACK_RADIUS)
    elif style == OUTLINED:
        radius = rng.uniform(*(TRIANGLE_RADIUS if shape == "triangle" else OUTLINED_RADIUS))
    elif style == STRIPED:
        radius = STRIPED_HEIGHT / 2 / half_extent(shape, pose, 1.0)[1]
    return Placed(shape, color, float(radius), style=style, pose=pose)


def _open_color(sentence: Sentence, index: int, shared: str, rng: Rng) -> str:
    """Choose a color that the phrase does not state: the clause's color, a color shared by all objects, or random."""
    clause, word = sentence.clause, sentence.clause_word
    stated = {Clause.FORMER: index == 0, Clause.LATTER: index == 1, Clause.BOTH: True, Clause.IT: True}
    if clause and stated.get(clause, False):
        return word
    return shared if clause is Clause.ALIKE or sentence.word == w.SAME_COLOR else choose(rng, COLORS)


def _arrange(sentence: Sentence, things: list[Placed], rng: Rng) -> list[Placed] | None:
    """Place the objects and return them from back to front, or None if this attempt failed."""
    if sentence.form is Form.PLACE:
        return [_in_position(things[0], sentence.word, rng)]
    if sentence.form is Form.LINE:
        return _in_line(things, sentence.word, rng)
    if sentence.form is Form.PAIR:
        one, two = things
        if sentence.word in w.DEPTHS:
            front, back = (one, two) if sentence.word == "in front of" else (two, one)
            return _overlapping(front, back, rng)
        if sentence.word == w.INSIDE:
            ring = _anywhere(two, rng)
            return [ring, replace(one, x=ring.x + rng.uniform(-2, 2), y=ring.y + rng.uniform(-2, 2))]
        if sentence.word == "touching":
            return _touching(one, two, rng)
    return _scattered(things, rng, sentence.word if sentence.form is Form.PAIR else "")


def _anywhere(thing: Placed, rng: Rng) -> Placed:
    x, y = (rng.uniform(MARGIN + half, IMAGE_SIZE - MARGIN - half) for half in thing.half)
    return _snapped(replace(thing, x=float(x), y=float(y)))


def _snapped(thing: Placed) -> Placed:
    """Align signs and striped objects to the pixel grid, so that they are sharp."""
    if thing.shape in INK or thing.style == STRIPED:
        return replace(thing, x=round(thing.x - 0.5) + 0.5, y=round(thing.y - 0.5) + 0.5)
    return thing


def _scattered(things: list[Placed], rng: Rng, relation: str) -> list[Placed] | None:
    gaps = (6.0, 6.0) if relation == "apart from" else GAPS
    placed: list[Placed] = []
    for thing in things:
        for _ in range(60):
            one = _anywhere(thing, rng)
            if all(is_clear(one, other, gaps) for other in placed) and _in_relation(relation, [*placed, one]):
                placed.append(one)
                break
        else:
            return None
    return placed


def is_clear(one: Placed, other: Placed, gaps: tuple[float, float] = GAPS) -> bool:
    """Whether the bounding boxes are separated by the horizontal or the vertical gap in `gaps`."""
    across, down = (a + b for a, b in zip(one.half, other.half, strict=True))
    return abs(one.x - other.x) >= across + gaps[0] or abs(one.y - other.y) >= down + gaps[1]


def _in_relation(relation: str, placed: list[Placed]) -> bool:
    """Whether two objects satisfy a spatial relation with a margin. True for other relations or fewer objects."""
    if relation not in w.SIDES or len(placed) < 2:
        return True
    right, down = placed[1].x - placed[0].x, placed[1].y - placed[0].y
    along, across = (right, down) if relation in ("left of", "right of") else (down, right)
    return (along if relation in ("left of", "above") else -along) > 1.25 * abs(across)


def _in_position(thing: Placed, position: str, rng: Rng) -> Placed:
    if position == w.MIDDLE:
        x, y = IMAGE_SIZE / 2 + rng.uniform(-2, 2, size=2)
    else:
        x, y = (half + MARGIN + rng.uniform(0, 2.5) for half in thing.half)
        x = x if "left" in position else IMAGE_SIZE - x
        y = y if "top" in position else IMAGE_SIZE - y
    return _snapped(replace(thing, x=float(x), y=float(y)))


def _in_line(things: list[Placed], line: str, rng: Rng) -> list[Placed] | None:
    row = line == "row"
    half, other = things[0].half if row else things[0].half[::-1]
    gaps = len(things) - 1
    room = IMAGE_SIZE - 2 * MARGIN - len(things) * 2 * half
    pitch = 2 * half + min(room / gaps, (GAPS[0] if row else LINE_GAP_BELOW) + rng.uniform(0, 1))
    length = pitch * gaps + 2 * half
    start = half + MARGIN + rng.uniform(0, 1) * (IMAGE_SIZE - 2 * MARGIN - length)
    level = rng.uniform(other + MARGIN + 1, IMAGE_SIZE - other - MARGIN - 1)
    found = []
    for index, thing in enumerate(things):
        along, across = float(start + index * pitch), float(level + rng.uniform(-0.7, 0.7))
        found.append(replace(thing, x=along if row else across, y=across if row else along))
    return found if all(map(is_inside, found)) else None


def _polar(thing: Placed, center: Placed, angle: float, reach: float) -> Placed:
    return replace(thing, x=float(center.x + reach * np.cos(angle)), y=float(center.y + reach * np.sin(angle)))


def _overlapping(front: Placed, back: Placed, rng: Rng) -> list[Placed] | None:
    back = _anywhere(back, rng)
    front = _polar(front, back, rng.uniform(0, 2 * np.pi), rng.uniform(4, 12))
    if not is_inside(front):
        return None
    whole = solid(back)
    hidden = (whole & solid(front)).sum() / whole.sum()
    return [back, front] if HIDDEN_SHARE[0] <= hidden <= HIDDEN_SHARE[1] else None


def _touching(one: Placed, two: Placed, rng: Rng) -> list[Placed] | None:
    """Place the first object and move the second away from it along a line until they no longer overlap.

    Returns None if the second object leaves the image.
    """
    one = _anywhere(one, rng)
    covered, angle = solid(one), rng.uniform(0, 2 * np.pi)
    for reach in np.arange(4, 20, 0.4):
        moved = _polar(two, one, angle, reach)
        if not is_inside(moved):
            return None
        if not (solid(moved) & covered).any():
            return [one, moved]
    return None


def is_inside(thing: Placed) -> bool:
    """Whether the object is within the image margins."""
    sides = zip((thing.x, thing.y), thing.half, strict=True)
    return all(MARGIN + half <= at <= IMAGE_SIZE - MARGIN - half for at, half in sides)
