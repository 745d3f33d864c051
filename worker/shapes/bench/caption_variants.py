"""Near neighbors for training: sentences that differ from a given sentence in one statement."""

from collections.abc import Iterator
from dataclasses import replace

from worker.shapes import words as w
from worker.shapes.bench.scene_layout import RING_SHAPES, STYLED_SHAPES, WHOLE_SHAPES
from worker.shapes.caption_sampling import Rng, choose
from worker.shapes.grammar import Clause, Form, Phrase, Sentence
from worker.shapes.words import BACKGROUNDS, COLORS, SHAPES, SIZES


def alter(sentence: Sentence, rng: Rng) -> Sentence:
    """Change one statement of `sentence`. Each statement is equally likely to change."""
    options = list(alterations(sentence))
    name = choose(rng, sorted({name for name, _ in options}))
    return choose(rng, [changed for other, changed in options if other == name])


def alterations(sentence: Sentence) -> Iterator[tuple[str, Sentence]]:
    """Yield every sentence that differs from `sentence` in one statement, with the name of the statement."""
    for index, phrase in enumerate(sentence.phrases):
        for name, other in _phrases(phrase, sentence, index):
            phrases = (*sentence.phrases[:index], other, *sentence.phrases[index + 1 :])
            try:
                yield f"{name} {index}", replace(sentence, phrases=phrases)
            except ValueError:
                continue  # the two objects are ambiguous
    for word in _words(sentence):
        yield "word", replace(sentence, word=word)
    if sentence.clause_word:
        for word in w.SINGULARS if sentence.clause_word in w.SINGULARS else COLORS:
            if word != sentence.clause_word and w.SINGULARS.get(word) != sentence.phrases[0].shape:
                yield "clause", replace(sentence, clause_word=word)
    if sentence.clause in (Clause.FORMER, Clause.LATTER):
        other_clause = Clause.LATTER if sentence.clause is Clause.FORMER else Clause.FORMER
        yield "pronoun", replace(sentence, clause=other_clause)
    for background in BACKGROUNDS:
        if background != sentence.background:
            yield "background", replace(sentence, background=background)


def _words(sentence: Sentence) -> Iterator[str]:
    """Yield the other relations, positions, lines or quantities that are possible for the same phrases."""
    whole = all(phrase.shape in WHOLE_SHAPES for phrase in sentence.phrases)
    depths = w.DEPTHS if whole else ()
    for group in (w.SIDES, depths, w.CONTACTS, w.COMPARISONS, w.POSITIONS, w.LINES, (w.AS_MANY, w.MORE)):
        if sentence.word in group:
            yield from (word for word in group if word != sentence.word)


def _phrases(phrase: Phrase, sentence: Sentence, index: int) -> Iterator[tuple[str, Phrase]]:
    striped = any(one.style == w.STRIPED for one in sentence.phrases)
    options: dict[str, tuple[str, ...]] = {
        "shape": _shapes(phrase, sentence, index),
        "color": COLORS,
        "size": () if phrase.count > 2 or phrase.pose or striped else SIZES,
        "style": tuple(style for style in w.STYLES if phrase.shape in STYLED_SHAPES[style]),
        "pose": w.POINTING if phrase.shape == "triangle" else (),
        "color_hint": tuple(w.COLOR_HINTS),
        "shape_hint": tuple(w.SHAPE_HINTS),
    }
    for name, values in options.items():
        current = getattr(phrase, name)
        if current is not None:
            yield from ((name, replace(phrase, **{name: value})) for value in values if value != current)  # type: ignore[arg-type]
    plain = not (phrase.style or phrase.pose or phrase.shape_hint or phrase.color_hint or phrase.is_glyph)
    if sentence.form in (Form.SHOW, Form.LINE) and phrase.size != "large" and plain:
        fewest = 2 if sentence.form is Form.LINE or sentence.clause is Clause.ALIKE else 1
        for count in (phrase.count - 1, phrase.count + 1):
            if fewest <= count <= (3 if sentence.form is Form.LINE else 4):
                yield "count", replace(phrase, count=count)


def _shapes(phrase: Phrase, sentence: Sentence, index: int) -> tuple[str, ...]:
    if phrase.is_glyph:
        return w.LETTERS if phrase.shape in w.LETTERS else w.DIGITS
    if phrase.pose:
        return ()
    if phrase.style:
        return STYLED_SHAPES[phrase.style]
    if sentence.word == w.INSIDE and index == 1:
        return RING_SHAPES
    if sentence.word in w.DEPTHS and index == (1 if sentence.word == "in front of" else 0):
        return WHOLE_SHAPES
    if sentence.clause is Clause.WITHOUT and sentence.clause_word in w.SINGULARS:
        return tuple(shape for shape in SHAPES if shape != w.SINGULARS[sentence.clause_word])
    return SHAPES
