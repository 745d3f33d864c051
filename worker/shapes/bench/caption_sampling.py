"""Random sentences of the benchmark's world, and the split of their captions into benchmark, held-out and training."""

from collections.abc import Callable
from dataclasses import replace
from enum import IntEnum
from functools import lru_cache

from worker.shapes import words as w
from worker.shapes.bench.scene_layout import RING_SHAPES, STYLED_SHAPES, WHOLE_SHAPES
from worker.shapes.caption_sampling import Rng, choose, distinct, part_number
from worker.shapes.grammar import Clause, Form, Phrase, Sentence
from worker.shapes.words import BACKGROUNDS, COLORS, SHAPES, SIZES


class Part(IntEnum):
    """The use of a caption, determined by its part number. Part numbers of TRAIN and above are for training."""

    BENCHMARK = 0
    HELDOUT = 1
    TRAIN = 2


def part_of(sentence: Sentence | str) -> Part:
    """Return the part of a sentence or caption. It is the same for equal meanings."""
    return Part(min(part_number(sentence, "shapes-bench "), Part.TRAIN))


def sample(rng: Rng, recipe: str | None = None) -> Sentence:
    """Sample a sentence with the given recipe from RECIPES, or with a random recipe if it is None."""
    make = RECIPES[recipe or choose(rng, tuple(RECIPES))]
    while True:
        try:
            return make(rng)
        except ValueError:
            continue  # the two objects are ambiguous


@lru_cache
def train_prompts(count: int = 4096) -> tuple[str, ...]:
    """Return the first `count` distinct training captions of a fixed random sequence."""
    return prompts(count, Part.TRAIN, seed=100)


@lru_cache
def heldout_prompts(count: int = 1024) -> tuple[str, ...]:
    """Return the first `count` distinct held-out captions of a fixed random sequence."""
    return prompts(count, Part.HELDOUT, seed=101)


def prompts(count: int, part: Part, seed: int, recipe: str | None = None) -> tuple[str, ...]:
    """Return the first `count` distinct captions of a part, from one recipe or from all recipes."""
    return distinct(count, lambda rng: sample(rng, recipe), lambda sentence: part_of(sentence) is part, seed)


def _show(rng: Rng, **stated: str | int | None) -> Sentence:
    return Sentence(Form.SHOW, (_phrase(rng, **stated),), choose(rng, BACKGROUNDS))


def _style(rng: Rng) -> Sentence:
    style = choose(rng, w.STYLES)
    phrase = _phrase(rng, style=style, shape=choose(rng, STYLED_SHAPES[style]))
    background = choose(rng, BACKGROUNDS)
    if rng.random() < 0.5:
        return Sentence(Form.SHOW, (phrase,), background)
    return Sentence(Form.PLACE, (phrase,), background, choose(rng, w.POSITIONS))


def _world(rng: Rng) -> Sentence:
    if rng.random() < 0.5:
        return _show(rng, shape=None, shape_hint=choose(rng, tuple(w.SHAPE_HINTS)), size=_maybe(rng, SIZES))
    return _show(rng, color=None, color_hint=choose(rng, tuple(w.COLOR_HINTS)), size=_maybe(rng, SIZES))


def _attribute(rng: Rng) -> Sentence:
    count = int(rng.integers(1, 5))
    return _show(rng, count=count, size=choose(rng, SIZES) if count <= 2 else "small")


def _state(rng: Rng) -> Sentence:
    size = _maybe(rng, ("large",))
    if rng.random() < 0.3:
        return _show(rng, size=size, shape="cross", pose=w.TILTED)
    return _show(rng, size=size, shape="triangle", pose=choose(rng, w.POINTING))


def _pair(*relations: str, second: tuple[str, ...] = SHAPES) -> Callable[[Rng], Sentence]:
    def make(rng: Rng) -> Sentence:
        relation = choose(rng, relations)
        one = _phrase(rng, shape=choose(rng, second if relation == "behind" else SHAPES))
        two = _phrase(rng, shape=choose(rng, SHAPES if relation == "behind" else second))
        if one.color == two.color and relation in (*w.DEPTHS, *w.CONTACTS, w.INSIDE):
            raise ValueError("adjacent objects of the same color are ambiguous")
        return Sentence(Form.PAIR, (one, two), choose(rng, BACKGROUNDS), relation)

    return make


def _two(form: Form, *words: str, **stated: None) -> Callable[[Rng], Sentence]:
    def make(rng: Rng) -> Sentence:
        phrases = (_phrase(rng, **stated), _phrase(rng, **stated))
        background = choose(rng, BACKGROUNDS)
        return Sentence(form, phrases, background, choose(rng, words) if len(words) > 1 else "".join(words))

    return make


def _matching(rng: Rng) -> Sentence:
    style = choose(rng, (*w.STYLES, ""))
    styled = _phrase(rng, style=style or None, shape=choose(rng, STYLED_SHAPES.get(style, SHAPES)))
    # A styled object is larger than others, so there is only room for one small object besides it.
    other = _phrase(rng, size="small" if style else choose(rng, SIZES))
    if not style:
        styled = replace(styled, size=choose(rng, SIZES))
    if styled.color == other.color:
        raise ValueError("the objects must differ in color")
    phrases = (styled, other) if rng.random() < 0.5 else (other, styled)
    return Sentence(Form.PAIR, phrases, choose(rng, BACKGROUNDS), w.AND)


def _line(rng: Rng) -> Sentence:
    phrase = _phrase(rng, count=int(rng.integers(2, 4)), size=_maybe(rng, ("small",)))
    return Sentence(Form.LINE, (phrase,), choose(rng, BACKGROUNDS), choose(rng, w.LINES))


def _place(rng: Rng) -> Sentence:
    phrase = _phrase(rng, size=_maybe(rng, SIZES))
    return Sentence(Form.PLACE, (phrase,), choose(rng, BACKGROUNDS), choose(rng, w.POSITIONS))


def _pronoun(rng: Rng) -> Sentence:
    color, background = choose(rng, COLORS), choose(rng, BACKGROUNDS)
    if rng.random() < 0.25:
        phrase = _phrase(rng, color=None, size=choose(rng, SIZES))
        return Sentence(Form.SHOW, (phrase,), background, "", Clause.IT, color)
    clause = choose(rng, (Clause.FORMER, Clause.LATTER, Clause.BOTH))
    phrases = (_phrase(rng, color=None), _phrase(rng, color=None))
    return Sentence(Form.PAIR, phrases, background, choose(rng, w.SIDES), clause, color)


def _without(rng: Rng) -> Sentence:
    background, by_color = choose(rng, BACKGROUNDS), rng.random() < 0.5
    if by_color:
        phrase = _phrase(rng, color=None, count=int(rng.integers(1, 4)))
        unwanted = choose(rng, COLORS)
    else:
        phrase = _phrase(rng, count=int(rng.integers(1, 4)))
        unwanted = w.PLURALS[choose(rng, tuple(shape for shape in SHAPES if shape != phrase.shape))]
    return Sentence(Form.SHOW, (phrase,), background, "", Clause.WITHOUT, unwanted)


def _alike(rng: Rng) -> Sentence:
    background, unordered = choose(rng, BACKGROUNDS), rng.random() < 0.5
    count = int(rng.integers(2, 5 if unordered else 4))
    phrase = _phrase(rng, color=None, count=count, size=_maybe(rng, ("small",)))
    form, word = (Form.SHOW, "") if unordered else (Form.LINE, choose(rng, w.LINES))
    return Sentence(form, (phrase,), background, word, Clause.ALIKE)


def _text(rng: Rng) -> Sentence:
    sign, background = _phrase(rng, shape=choose(rng, w.GLYPHS)), choose(rng, BACKGROUNDS)
    if rng.random() < 0.4:
        return Sentence(Form.SHOW, (sign,), background)
    if rng.random() < 0.5:
        return Sentence(Form.PLACE, (sign,), background, choose(rng, w.POSITIONS))
    other = _phrase(rng)
    if other.color == sign.color:
        raise ValueError("the objects must differ in color")
    return Sentence(Form.PAIR, (sign, other), background, choose(rng, w.SIDES))


RECIPES: dict[str, Callable[[Rng], Sentence]] = {
    "style": _style,
    "world": _world,
    "attribute": _attribute,
    "state": _state,
    "contact": _pair(*w.CONTACTS),
    "comparison": _pair(*w.COMPARISONS),
    "inclusion": _pair(w.INSIDE, second=RING_SHAPES),
    "similarity": _two(Form.PAIR, w.SAME_COLOR, color=None),
    "composition": _line,
    "counts": _two(Form.COUNTS, w.AS_MANY, w.MORE),
    "either": _two(Form.EITHER),
    "pronoun": _pronoun,
    "negation": _without,
    "consistency": _alike,
    "matching": _matching,
    "sides": _pair(*w.SIDES),
    "place": _place,
    "depth": _pair(*w.DEPTHS, second=WHOLE_SHAPES),
    "text": _text,
}
"""Functions that sample each kind of sentence, by recipe name."""


def _phrase(rng: Rng, **stated: str | int | None) -> Phrase:
    """Create a phrase with a random shape and color; `stated` overrides or adds attributes."""
    chosen = {"shape": choose(rng, SHAPES), "color": choose(rng, COLORS)}
    return Phrase(**{**chosen, **stated})  # type: ignore[arg-type]


def _maybe(rng: Rng, options: tuple[str, ...]) -> str | None:
    return choose(rng, options) if rng.random() < 0.5 else None
