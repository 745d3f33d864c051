"""Scenes of sentences: what a sentence leaves open is drawn at random, until the scene meets every test point."""

from dataclasses import replace

import numpy as np

from worker.shapes import IMAGE_SIZE
from worker.shapes.bench import words as say
from worker.shapes.bench.grammar import GLYPHS, Clause, Form, Phrase, Sentence
from worker.shapes.bench.points import points
from worker.shapes.bench.rules import holds
from worker.shapes.bench.scene import Placed, Scene, look, mask, striped_radius
from worker.shapes.bench.words import COLOURS, OUTLINED, SIZES, STRIPED

RADIUS = {"small": (3.3, 3.9), "large": (5.6, 6.4)}
OUTLINED_RADIUS, TRIANGLE_RADIUS = (6.2, 7.0), (7.2, 8.0)
"""Of outlined objects, and of outlined triangles, which have a smaller hole."""
RING_RADIUS, BACK_RADIUS = (11.0, 12.5), (6.6, 7.6)
"""Of objects that have another one inside, and of such that are partly hidden."""
STYLED_SHAPES = {OUTLINED: ("circle", "square", "triangle", "diamond"), STRIPED: ("circle", "square", "triangle")}
"""Shapes that can be recognised in a style."""
WHOLE_SHAPES = ("circle", "square", "triangle", "diamond")
"""Shapes that can be recognised when a part is hidden."""
RING_SHAPES = ("circle", "square")
HIDDEN_SHARE = (0.18, 0.42)
"""Of an object that is partly hidden."""
MARGIN, GAP, GAP_BELOW, LINE_GAP_BELOW = 0.5, 2.5, 4.5, 3.3
"""Least distance in pixels to the edge, to the next object beside, and below: there the gap of two stripes is less.
In a column of three there is not as much room."""
TRIES = 400

Rng = np.random.Generator


class NoScene(ValueError):
    """A sentence of which no image was found: too much is asked of too little room."""


def realise(sentence: Sentence, rng: Rng) -> Scene:
    """A scene that meets every test point of `sentence`. Raises NoScene."""
    wanted = points(sentence)
    for _ in range(TRIES):
        things = _arrange(sentence, _things(sentence, rng), rng)
        if things is None:
            continue
        scene = Scene(tuple(things), sentence.background)
        seen = look(scene)
        if all(holds(point, seen) for point in wanted):
            return scene
    raise NoScene(f"no image was found in {TRIES} tries of {sentence}")


def _things(sentence: Sentence, rng: Rng) -> list[Placed]:
    """The sentence's objects, not yet at their places."""
    phrases = sentence.phrases
    if sentence.form is Form.EITHER:
        phrases = (phrases[int(rng.integers(2))],)
    counts = [phrase.count for phrase in phrases]
    if sentence.form is Form.COUNTS:
        same = int(rng.integers(1, 3))
        counts = [same, same] if sentence.word == say.AS_MANY else [int(rng.integers(2, 4)), 1]
    free = _choose(rng, COLOURS)
    things: list[Placed] = []
    for place, (phrase, count) in enumerate(zip(phrases, counts, strict=True)):
        one = _thing(phrase, sum(counts), sentence, place, free, rng)
        mixed = phrase.meant_colour is None and sentence.clause is Clause.WITHOUT
        things += [replace(one, colour=_choose(rng, COLOURS)) if mixed else one for _ in range(count)]
    return things


def _thing(phrase: Phrase, total: int, sentence: Sentence, place: int, free: str, rng: Rng) -> Placed:
    relation = sentence.word if sentence.form is Form.PAIR else ""
    behind = relation in say.DEPTHS and place == (1 if relation == "in front of" else 0)
    shape = _choose(rng, phrase.meant_shapes)
    colour = phrase.meant_colour or _open_colour(sentence, place, free, rng)
    pose = phrase.pose or (say.UP if shape == "triangle" else say.UPRIGHT)
    size = phrase.size or ("small" if total > 2 else _choose(rng, SIZES))
    style = phrase.style or "solid"
    if relation in say.COMPARISONS:
        size = "large" if (relation == "larger than") == (place == 0) else "small"
    if phrase.style or phrase.pose or behind:
        size = phrase.size or "large"
    radius = float(rng.uniform(*RADIUS[size]))
    if relation == say.INSIDE:
        style, radius = (OUTLINED, rng.uniform(*RING_RADIUS)) if place else (style, rng.uniform(*RADIUS["small"]))
    elif behind:
        radius = rng.uniform(*BACK_RADIUS)
    elif style == OUTLINED:
        radius = rng.uniform(*(TRIANGLE_RADIUS if shape == "triangle" else OUTLINED_RADIUS))
    elif style == STRIPED:
        radius = striped_radius(shape, pose)
    return Placed(shape, colour, float(radius), style=style, pose=pose)


def _open_colour(sentence: Sentence, place: int, free: str, rng: Rng) -> str:
    """A colour that is not told: as the clause has it, else one for each object or one for all."""
    clause, word = sentence.clause, sentence.clause_word
    told = {Clause.FORMER: place == 0, Clause.LATTER: place == 1, Clause.BOTH: True, Clause.IT: True}
    if clause and told.get(clause, False):
        return word
    return free if clause is Clause.ALIKE or sentence.word == say.SAME_COLOUR else _choose(rng, COLOURS)


def _arrange(sentence: Sentence, things: list[Placed], rng: Rng) -> list[Placed] | None:
    """The objects at their places, from back to front; None: this try failed."""
    if sentence.form is Form.PLACE:
        return [_in_place(things[0], sentence.word, rng)]
    if sentence.form is Form.LINE:
        return _in_line(things, sentence.word, rng)
    if sentence.form is Form.PAIR:
        one, two = things
        if sentence.word in say.DEPTHS:
            front, back = (one, two) if sentence.word == "in front of" else (two, one)
            return _overlapping(front, back, rng)
        if sentence.word == say.INSIDE:
            ring = _anywhere(two, rng)
            inner = replace(one, x=ring.x + rng.uniform(-2, 2), y=ring.y + rng.uniform(-2, 2))
            return [ring, inner]
        if sentence.word == "touching":
            return _touching(one, two, rng)
    return _scattered(things, rng, related=sentence.word if sentence.form is Form.PAIR else "")


def _anywhere(thing: Placed, rng: Rng) -> Placed:
    across, down = thing.half
    x, y = (rng.uniform(MARGIN + half, IMAGE_SIZE - MARGIN - half) for half in (across, down))
    return _snapped(replace(thing, x=float(x), y=float(y)))


def _snapped(thing: Placed) -> Placed:
    """Signs and stripes lie on whole pixels, so that they stay sharp."""
    if thing.shape in GLYPHS or thing.style == STRIPED:
        return replace(thing, x=round(thing.x - 0.5) + 0.5, y=round(thing.y - 0.5) + 0.5)
    return thing


def _scattered(things: list[Placed], rng: Rng, related: str) -> list[Placed] | None:
    gap = (6.0, 6.0) if related == "apart from" else (GAP, GAP_BELOW)
    placed: list[Placed] = []
    for thing in things:
        for _ in range(60):
            one = _anywhere(thing, rng)
            if all(is_clear(one, other, gap) for other in placed) and _fits(related, [*placed, one]):
                placed.append(one)
                break
        else:
            return None
    return placed


def is_clear(one: Placed, other: Placed, gap: tuple[float, float]) -> bool:
    across, down = (a + b for a, b in zip(one.half, other.half, strict=True))
    return abs(one.x - other.x) >= across + gap[0] or abs(one.y - other.y) >= down + gap[1]


def _fits(related: str, placed: list[Placed]) -> bool:
    """Whether two objects are on the right sides of each other, if that is what is asked."""
    if related not in say.SIDES or len(placed) < 2:
        return True
    one, two = placed
    right, down = two.x - one.x, two.y - one.y
    along, across = {
        "left of": (right, down),
        "right of": (-right, down),
        "above": (down, right),
        "below": (-down, right),
    }[related]
    return along > 1.25 * abs(across)


def _in_place(thing: Placed, place: str, rng: Rng) -> Placed:
    if place == say.MIDDLE:
        x, y = IMAGE_SIZE / 2 + rng.uniform(-2, 2, size=2)
        return _snapped(replace(thing, x=float(x), y=float(y)))
    across, down = (half + MARGIN + rng.uniform(0, 2.5) for half in thing.half)
    x = across if "left" in place else IMAGE_SIZE - across
    y = down if "top" in place else IMAGE_SIZE - down
    return _snapped(replace(thing, x=float(x), y=float(y)))


def _in_line(things: list[Placed], line: str, rng: Rng) -> list[Placed] | None:
    row = line == "row"
    half, other = things[0].half if row else things[0].half[::-1]
    gaps = len(things) - 1
    room = IMAGE_SIZE - 2 * MARGIN - len(things) * 2 * half
    pitch = 2 * half + min(room / gaps, (GAP if row else LINE_GAP_BELOW) + rng.uniform(0, 1))
    length = pitch * gaps + 2 * half
    start = half + MARGIN + rng.uniform(0, 1) * (IMAGE_SIZE - 2 * MARGIN - length)
    level = rng.uniform(other + MARGIN + 1, IMAGE_SIZE - other - MARGIN - 1)
    found = []
    for place, thing in enumerate(things):
        along, across = float(start + place * pitch), float(level + rng.uniform(-0.7, 0.7))
        found.append(replace(thing, x=along if row else across, y=across if row else along))
    return found if all(map(is_inside, found)) else None


def _overlapping(front: Placed, back: Placed, rng: Rng) -> list[Placed] | None:
    back = _anywhere(back, rng)
    angle, reach = rng.uniform(0, 2 * np.pi), rng.uniform(4, 12)
    front = replace(front, x=float(back.x + reach * np.cos(angle)), y=float(back.y + reach * np.sin(angle)))
    if not is_inside(front):
        return None
    whole = mask(back).numpy() >= 0.5
    hidden = (whole & (mask(front).numpy() >= 0.5)).sum() / whole.sum()
    return [back, front] if HIDDEN_SHARE[0] <= hidden <= HIDDEN_SHARE[1] else None


def _touching(one: Placed, two: Placed, rng: Rng) -> list[Placed] | None:
    """The second is moved out of the first along a line until they no longer overlap."""
    one = _anywhere(one, rng)
    still = mask(one).numpy() >= 0.5
    angle = rng.uniform(0, 2 * np.pi)
    for reach in np.arange(4, 20, 0.4):
        moved = replace(two, x=float(one.x + reach * np.cos(angle)), y=float(one.y + reach * np.sin(angle)))
        if not is_inside(moved):
            return None
        if not ((mask(moved).numpy() >= 0.5) & still).any():
            return [one, moved]
    return None


def is_inside(thing: Placed) -> bool:
    places = zip((thing.x, thing.y), thing.half, strict=True)
    return all(MARGIN + half <= at <= IMAGE_SIZE - MARGIN - half for at, half in places)


def _choose(rng: Rng, options: tuple[str, ...]) -> str:
    return options[int(rng.integers(len(options)))]
