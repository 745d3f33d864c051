"""Sentences that differ from another one in one told thing: neighbours for training, and broken scenes for tests."""

from collections.abc import Iterator
from dataclasses import fields, replace

import numpy as np

from worker.shapes.bench import words as say
from worker.shapes.bench.grammar import Clause, Form, Phrase, Sentence
from worker.shapes.bench.layout import RING_SHAPES, STYLED_SHAPES, WHOLE_SHAPES
from worker.shapes.bench.words import BACKGROUNDS, COLOURS, SHAPES, SIZES

Rng = np.random.Generator


def alter(sentence: Sentence, rng: Rng) -> Sentence:
    """`sentence` with one thing changed, of those that it tells."""
    options = [*alterations(sentence)]
    # A thing with many values is no likelier to be changed than one with two.
    names = sorted({name for name, _ in options})
    name = names[int(rng.integers(len(names)))]
    changed = [one for known, one in options if known == name]
    return changed[int(rng.integers(len(changed)))]


def alterations(sentence: Sentence) -> Iterator[tuple[str, Sentence]]:
    """Every sentence that differs in one thing, with the thing's name."""
    for place, phrase in enumerate(sentence.phrases):
        for name, other in _phrases(phrase, sentence, place):
            phrases = (*sentence.phrases[:place], other, *sentence.phrases[place + 1 :])
            try:
                yield f"{name} {place}", replace(sentence, phrases=phrases)
            except ValueError:
                continue  # the two objects could not be told apart
    for word in _words(sentence):
        yield "word", replace(sentence, word=word)
    if sentence.clause_word:
        told = (*say.SINGULARS,) if sentence.clause_word in say.SINGULARS else COLOURS
        for word in told:
            if word != sentence.clause_word and say.SINGULARS.get(word) != sentence.phrases[0].shape:
                yield "clause", replace(sentence, clause_word=word)
    if sentence.clause in (Clause.FORMER, Clause.LATTER):
        other_clause = Clause.LATTER if sentence.clause is Clause.FORMER else Clause.FORMER
        yield "pronoun", replace(sentence, clause=other_clause)
    for background in BACKGROUNDS:
        if background != sentence.background:
            yield "background", replace(sentence, background=background)


def _words(sentence: Sentence) -> tuple[str, ...]:
    """Other relations, places and so on that the same phrases can have."""
    for same in (say.SIDES, say.DEPTHS, say.CONTACTS, say.COMPARISONS, say.PLACES, say.LINES, (say.AS_MANY, say.MORE)):
        if sentence.word in same:
            shapes = [phrase.shape for phrase in sentence.phrases]
            if same is say.DEPTHS and not all(shape in WHOLE_SHAPES for shape in shapes):
                return ()
            return tuple(word for word in same if word != sentence.word)
    return ()


def _phrases(phrase: Phrase, sentence: Sentence, place: int) -> Iterator[tuple[str, Phrase]]:
    options: dict[str, tuple[str, ...]] = {
        "colour": COLOURS,
        "shape": _shapes(phrase, sentence, place),
        "size": () if phrase.count > 2 or phrase.pose or _is_beside_stripes(sentence) else SIZES,
        "style": tuple(style for style in say.STYLES if phrase.shape in STYLED_SHAPES[style]),
        "pose": say.POINTING if phrase.shape == "triangle" else (),
        "colour_hint": tuple(say.COLOUR_HINTS),
        "shape_hint": tuple(say.SHAPE_HINTS),
    }
    for field in fields(phrase):
        current = getattr(phrase, field.name)
        if current is not None and field.name in options:
            for value in options[field.name]:
                if value != current:
                    yield field.name, replace(phrase, **{field.name: value})  # type: ignore[arg-type]
    if sentence.form in (Form.SHOW, Form.LINE) and phrase.size != "large" and not phrase.style and not phrase.pose:
        least, most = (2, 3) if sentence.form is Form.LINE else (2 if sentence.clause is Clause.ALIKE else 1, 4)
        for count in (phrase.count - 1, phrase.count + 1):
            if least <= count <= most and not phrase.shape_hint and not phrase.colour_hint and not phrase.is_glyph:
                yield "count", replace(phrase, count=count)


def _shapes(phrase: Phrase, sentence: Sentence, place: int) -> tuple[str, ...]:
    if phrase.is_glyph:
        return say.LETTERS if phrase.shape in say.LETTERS else say.DIGITS
    if phrase.pose:
        return ()
    if phrase.style:
        return STYLED_SHAPES[phrase.style]
    if sentence.word == say.INSIDE and place == 1:
        return RING_SHAPES
    if sentence.word in say.DEPTHS and place == (1 if sentence.word == "in front of" else 0):
        return WHOLE_SHAPES
    if sentence.clause is Clause.WITHOUT and sentence.clause_word in say.SINGULARS:
        return tuple(shape for shape in SHAPES if shape != say.SINGULARS[sentence.clause_word])
    return SHAPES


def _is_beside_stripes(sentence: Sentence) -> bool:
    return any(phrase.style == say.STRIPED for phrase in sentence.phrases)
