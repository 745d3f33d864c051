"""Sentences at random, and which of their captions are for training, for trying out, and for the benchmark."""

import hashlib
from collections.abc import Callable
from dataclasses import replace
from enum import IntEnum
from functools import lru_cache

import numpy as np

from worker.shapes.bench import words as say
from worker.shapes.bench.grammar import GLYPHS, Clause, Form, Phrase, Sentence, caption, parse
from worker.shapes.bench.layout import RING_SHAPES, STYLED_SHAPES, WHOLE_SHAPES
from worker.shapes.bench.words import BACKGROUNDS, COLOURS, OUTLINED, SHAPES, SIZES, STRIPED

Rng = np.random.Generator
PARTS = 8
"""One caption in so many is for the benchmark alone, and one is held out."""


class Part(IntEnum):
    """What a caption is for, by a hash of its meaning; other hashes are for training."""

    BENCHMARK = 0
    HELDOUT = 1
    TRAIN = 2


def part_of(text: str) -> Part:
    """What this caption is for. Two ways to tell the same are for the same."""
    told = "shapes-bench " + caption(canonical(parse(text)))
    return Part(min(hashlib.sha256(told.encode()).digest()[0] % PARTS, Part.TRAIN))


def canonical(sentence: Sentence) -> Sentence:
    """Of the two ways to tell the same relation, the first by name; `the former` is then `the latter`."""
    mirrored = sentence.form is Form.EITHER or (sentence.form is Form.COUNTS and sentence.word == say.AS_MANY)
    word = sentence.word
    if sentence.form is Form.PAIR and word in say.MIRROR:
        mirrored, word = True, say.MIRROR[word]
    if not mirrored:
        return sentence
    swapped = {Clause.FORMER: Clause.LATTER, Clause.LATTER: Clause.FORMER}
    clause = swapped.get(sentence.clause, sentence.clause) if sentence.clause else None
    other = replace(sentence, word=word, phrases=sentence.phrases[::-1], clause=clause)
    return min(sentence, other, key=lambda one: (one.word, caption(one)))


def sample(rng: Rng, recipe: str | None = None) -> Sentence:
    """A sentence by one of RECIPES, at random if not named."""
    make = RECIPES[recipe or _choose(rng, tuple(RECIPES))]
    while True:
        try:
            return make(rng)
        except ValueError:
            continue  # two objects that cannot be told apart


@lru_cache
def train_prompts(count: int = 4096) -> tuple[str, ...]:
    """The first `count` captions of a fixed random sequence that are for training, each once."""
    return distinct(count, Part.TRAIN, seed=100)


@lru_cache
def heldout_prompts(count: int = 1024) -> tuple[str, ...]:
    """The first `count` captions of a fixed random sequence that are held out, each once."""
    return distinct(count, Part.HELDOUT, seed=101)


def distinct(count: int, part: Part, seed: int, recipe: str | None = None) -> tuple[str, ...]:
    """The first `count` captions of a part, each once, of one recipe or of all."""
    rng = np.random.default_rng(seed)
    found: dict[str, None] = {}  # keeps the order of first occurrence
    for _ in range(200 * count + 1000):
        text = caption(sample(rng, recipe))
        if part_of(text) is part:
            found[text] = None
        if len(found) == count:
            return tuple(found)
    raise ValueError(f"{count} captions were asked for; {len(found)} are easily found")


def _show(rng: Rng, **told: str | int | None) -> Sentence:
    return Sentence(Form.SHOW, (_phrase(rng, **told),), _choose(rng, BACKGROUNDS))


def _style(rng: Rng) -> Sentence:
    style = _choose(rng, (OUTLINED, STRIPED))
    phrase = _phrase(rng, style=style, shape=_choose(rng, STYLED_SHAPES[style]))
    background = _choose(rng, BACKGROUNDS)
    if rng.random() < 0.5:
        return Sentence(Form.SHOW, (phrase,), background)
    return Sentence(Form.PLACE, (phrase,), background, _choose(rng, say.PLACES))


def _world(rng: Rng) -> Sentence:
    if rng.random() < 0.5:
        return _show(rng, shape=None, shape_hint=_choose(rng, tuple(say.SHAPE_HINTS)), size=_maybe(rng, SIZES))
    return _show(rng, colour=None, colour_hint=_choose(rng, tuple(say.COLOUR_HINTS)), size=_maybe(rng, SIZES))


def _attribute(rng: Rng) -> Sentence:
    count = int(rng.integers(1, 5))
    size = _choose(rng, SIZES) if count <= 2 else "small"
    return _show(rng, count=count, size=size)


def _state(rng: Rng) -> Sentence:
    size = _maybe(rng, ("large",))
    if rng.random() < 0.3:
        return _show(rng, size=size, shape="cross", pose=say.TILTED)
    return _show(rng, size=size, shape="triangle", pose=_choose(rng, say.POINTING))


def _pair(*relations: str, second: tuple[str, ...] = SHAPES) -> Callable[[Rng], Sentence]:
    def make(rng: Rng) -> Sentence:
        relation = _choose(rng, relations)
        one = _phrase(rng, shape=_choose(rng, second if relation == "behind" else SHAPES))
        two = _phrase(rng, shape=_choose(rng, SHAPES if relation == "behind" else second))
        if one.colour == two.colour and relation in (*say.DEPTHS, *say.CONTACTS, say.INSIDE):
            raise ValueError("objects of one colour that meet cannot be told apart")
        return Sentence(Form.PAIR, (one, two), _choose(rng, BACKGROUNDS), relation)

    return make


def _similar(rng: Rng) -> Sentence:
    one, two = _phrase(rng, colour=None), _phrase(rng, colour=None)
    return Sentence(Form.PAIR, (one, two), _choose(rng, BACKGROUNDS), say.SAME_COLOUR)


def _matching(rng: Rng) -> Sentence:
    style = _choose(rng, (OUTLINED, STRIPED, ""))
    styled = _phrase(rng, style=style or None, shape=_choose(rng, STYLED_SHAPES.get(style, SHAPES)))
    # Beside a styled object, which is larger than others, there is room for something small.
    other = _phrase(rng, size="small" if style else _choose(rng, SIZES))
    if not style:
        styled = replace(styled, size=_choose(rng, SIZES))
    if styled.colour == other.colour:
        raise ValueError("their features would not be different ones")
    phrases = (styled, other) if rng.random() < 0.5 else (other, styled)
    return Sentence(Form.PAIR, phrases, _choose(rng, BACKGROUNDS), say.AND)


def _line(rng: Rng) -> Sentence:
    phrase = _phrase(rng, count=int(rng.integers(2, 4)), size=_maybe(rng, ("small",)))
    return Sentence(Form.LINE, (phrase,), _choose(rng, BACKGROUNDS), _choose(rng, say.LINES))


def _place(rng: Rng) -> Sentence:
    phrase = _phrase(rng, size=_maybe(rng, SIZES))
    return Sentence(Form.PLACE, (phrase,), _choose(rng, BACKGROUNDS), _choose(rng, say.PLACES))


def _counts(rng: Rng) -> Sentence:
    one, two = _phrase(rng), _phrase(rng)
    return Sentence(Form.COUNTS, (one, two), _choose(rng, BACKGROUNDS), _choose(rng, (say.AS_MANY, say.MORE)))


def _either(rng: Rng) -> Sentence:
    return Sentence(Form.EITHER, (_phrase(rng), _phrase(rng)), _choose(rng, BACKGROUNDS))


def _pronoun(rng: Rng) -> Sentence:
    colour, background = _choose(rng, COLOURS), _choose(rng, BACKGROUNDS)
    if rng.random() < 0.25:
        phrase = _phrase(rng, colour=None, size=_choose(rng, SIZES))
        return Sentence(Form.SHOW, (phrase,), background, "", Clause.IT, colour)
    clause = (Clause.FORMER, Clause.LATTER, Clause.BOTH)[int(rng.integers(3))]
    phrases = (_phrase(rng, colour=None), _phrase(rng, colour=None))
    return Sentence(Form.PAIR, phrases, background, _choose(rng, say.SIDES), clause, colour)


def _without(rng: Rng) -> Sentence:
    background = _choose(rng, BACKGROUNDS)
    if rng.random() < 0.5:
        phrase = _phrase(rng, colour=None, count=int(rng.integers(1, 4)))
        return Sentence(Form.SHOW, (phrase,), background, "", Clause.WITHOUT, _choose(rng, COLOURS))
    phrase = _phrase(rng, count=int(rng.integers(1, 4)))
    unwanted = _choose(rng, tuple(shape for shape in SHAPES if shape != phrase.shape))
    return Sentence(Form.SHOW, (phrase,), background, "", Clause.WITHOUT, say.PLURALS[unwanted])


def _alike(rng: Rng) -> Sentence:
    background = _choose(rng, BACKGROUNDS)
    if rng.random() < 0.5:
        phrase = _phrase(rng, colour=None, count=int(rng.integers(2, 5)), size=_maybe(rng, ("small",)))
        return Sentence(Form.SHOW, (phrase,), background, "", Clause.ALIKE)
    phrase = _phrase(rng, colour=None, count=int(rng.integers(2, 4)), size=_maybe(rng, ("small",)))
    return Sentence(Form.LINE, (phrase,), background, _choose(rng, say.LINES), Clause.ALIKE)


def _text(rng: Rng) -> Sentence:
    sign, background = _phrase(rng, shape=_choose(rng, GLYPHS)), _choose(rng, BACKGROUNDS)
    if rng.random() < 0.4:
        return Sentence(Form.SHOW, (sign,), background)
    if rng.random() < 0.5:
        return Sentence(Form.PLACE, (sign,), background, _choose(rng, say.PLACES))
    other = _phrase(rng)
    if other.colour == sign.colour:
        raise ValueError("their colours tell them apart")
    return Sentence(Form.PAIR, (sign, other), background, _choose(rng, say.SIDES))


RECIPES: dict[str, Callable[[Rng], Sentence]] = {
    "style": _style,
    "world": _world,
    "attribute": _attribute,
    "state": _state,
    "contact": _pair(*say.CONTACTS),
    "comparison": _pair(*say.COMPARISONS),
    "inclusion": _pair(say.INSIDE, second=RING_SHAPES),
    "similarity": _similar,
    "composition": _line,
    "counts": _counts,
    "either": _either,
    "pronoun": _pronoun,
    "negation": _without,
    "consistency": _alike,
    "matching": _matching,
    "sides": _pair(*say.SIDES),
    "place": _place,
    "depth": _pair(*say.DEPTHS, second=WHOLE_SHAPES),
    "text": _text,
}
"""By name, what a sentence is about."""


def _phrase(rng: Rng, **told: str | int | None) -> Phrase:
    """An object of a colour and a shape, and of what is told else."""
    chosen = {"shape": _choose(rng, SHAPES), "colour": _choose(rng, COLOURS)}
    return Phrase(**{**chosen, **told})  # type: ignore[arg-type]


def _maybe(rng: Rng, options: tuple[str, ...]) -> str | None:
    return _choose(rng, options) if rng.random() < 0.5 else None


def _choose(rng: Rng, options: tuple[str, ...]) -> str:
    return options[int(rng.integers(len(options)))]
