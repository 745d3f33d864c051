"""The grammar of captions. The captions of the basic world are a subset; see `worker.shapes.testpoints.predicates`."""

from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache

from worker.shapes import words as w


@dataclass(frozen=True)
class Phrase:
    """The description of one object, or of `count` identical objects. None means that the attribute is not stated."""

    shape: str | None = None
    """One of SHAPES or GLYPHS."""
    color: str | None = None
    size: str | None = None
    style: str | None = None
    pose: str | None = None
    """`tilted` for a cross, or the direction of a triangle."""
    count: int = 1
    color_hint: str | None = None
    shape_hint: str | None = None

    @property
    def is_glyph(self) -> bool:
        """Whether the object is a letter or a digit."""
        return self.shape in w.GLYPHS

    @property
    def resolved_color(self) -> str | None:
        """The color that the phrase names or hints at, or None if it does neither."""
        return w.COLOR_HINTS[self.color_hint] if self.color_hint else self.color

    @property
    def possible_shapes(self) -> tuple[str, ...]:
        """All shapes that match the description."""
        if self.shape_hint:
            return w.SHAPE_HINTS[self.shape_hint]
        return (self.shape,) if self.shape else w.SHAPES


class Form(StrEnum):
    """The structure of a sentence."""

    SHOW = "show"
    """PHRASE"""
    PLACE = "place"
    """PHRASE in the POSITION"""
    LINE = "line"
    """a row of PHRASE"""
    PAIR = "pair"
    """PHRASE RELATION PHRASE"""
    COUNTS = "counts"
    """as many PHRASE as PHRASE, more PHRASE than PHRASE"""
    EITHER = "either"
    """either PHRASE or PHRASE"""


class Clause(StrEnum):
    """An optional clause after the main part of a sentence. `clause_word` completes it."""

    FORMER = "and the former is"
    LATTER = "and the latter is"
    BOTH = "and both are"
    IT = "and it is"
    WITHOUT = "without any"
    ALIKE = "all of one colour"


PRONOUNS = (Clause.FORMER, Clause.LATTER, Clause.BOTH, Clause.IT)


@dataclass(frozen=True)
class Sentence:
    """The meaning of a caption. Raises ValueError if its two phrases could describe the same object."""

    form: Form
    phrases: tuple[Phrase, ...]
    background: str
    word: str = ""
    """A relation, a position, `row`, `column`, `as many` or `more`, depending on the form."""
    clause: Clause | None = None
    clause_word: str = ""

    def __post_init__(self) -> None:
        if len(self.phrases) == 2 and not _differ(*self.phrases):
            first, second = map(_describe, self.phrases)
            raise ValueError(f"{first!r} and {second!r} are ambiguous; they must differ in color or shape")


def caption(sentence: Sentence) -> str:
    """Return the unique caption of `sentence`, such as "a red circle inside a blue square on white"."""
    first, last, word = _describe(sentence.phrases[0]), _describe(sentence.phrases[-1]), sentence.word
    match sentence.form:
        case Form.SHOW:
            text = first
        case Form.PLACE:
            text = f"{first} in the {word}"
        case Form.LINE:
            text = f"a {word} of {first}"
        case Form.PAIR:
            text = f"{first} {word} {last}"
        case Form.COUNTS:
            one, other = map(_describe_plural, sentence.phrases)
            text = f"{word} {one} {conjunction(word)} {other}"
        case Form.EITHER:
            text = f"either {first} or {last}"
    if sentence.clause:
        text += f" {sentence.clause} {sentence.clause_word}".rstrip()
    return f"{text} on {sentence.background}"


def conjunction(quantity: str) -> str:
    """Return the word that joins the two parts of a count comparison: "as" or "than"."""
    return "as" if quantity == w.AS_MANY else "than"


@lru_cache(maxsize=65536)
def parse(text: str) -> Sentence:
    """Parse the caption `text`. This is the inverse of `caption`.

    Raises ValueError that names the first invalid word.
    """
    words = _Words(text)
    form, word, phrases = _parse_head(words)
    clause = words.accept(*Clause)
    clause_word = ""
    if clause == Clause.WITHOUT:
        clause_word = words.take("a color or shapes", *w.COLORS, *w.SINGULARS)
    elif clause in PRONOUNS:
        clause_word = words.take("a color", *w.COLORS)
    words.take("the word before the background", "on")
    background = words.take("a background", *w.BACKGROUNDS)
    if words.next is not None:
        raise ValueError(f"word {words.index + 1}, {words.next!r}, follows the background; a caption ends there")
    return Sentence(form, phrases, background, word, Clause(clause) if clause else None, clause_word)


class _Words:
    """Reads the words of a caption from left to right."""

    def __init__(self, text: str) -> None:
        self.words = text.lower().split()
        self.index = 0

    @property
    def next(self) -> str | None:
        return self.words[self.index] if self.index < len(self.words) else None

    def accept(self, *allowed: str) -> str | None:
        """Consume and return the first option that matches the next words, or return None if none matches.

        Each option in `allowed` has one or more words.
        """
        for option in allowed:
            parts = option.lower().split()
            if self.words[self.index : self.index + len(parts)] == parts:
                self.index += len(parts)
                return option
        return None

    def take(self, what: str, *allowed: str) -> str:
        """Consume and return the option that matches the next words. Raises ValueError if none matches."""
        found = self.accept(*allowed)
        if found is None:
            choices = ", ".join(allowed)
            if self.next is None:
                raise ValueError(f"the caption ends after {self.index} words; expected {what}: {choices}")
            raise ValueError(f"word {self.index + 1}, {self.next!r}, is not {what}; allowed here: {choices}")
        return found


def _parse_head(words: _Words) -> tuple[Form, str, tuple[Phrase, ...]]:
    if words.accept("either"):
        first = _parse_phrase(words)
        words.take("the word between the two objects", "or")
        return Form.EITHER, "", (first, _parse_phrase(words))
    if quantity := words.accept(w.AS_MANY, w.MORE):
        first = _parse_plural(words)
        words.take("the word between the two kinds", conjunction(quantity))
        return Form.COUNTS, quantity, (first, _parse_plural(words))
    if line := words.accept("a row of", "a column of"):
        return Form.LINE, line.split()[1], (_parse_phrase(words),)
    first = _parse_phrase(words)
    start = words.index
    # "and" starts a clause or is a relation, and "in" starts a relation or a position.
    is_clause = words.accept(*PRONOUNS)
    words.index = start
    if is_clause:
        return Form.SHOW, "", (first,)
    if relation := words.accept(*w.RELATIONS):
        return Form.PAIR, relation, (first, _parse_phrase(words))
    if words.accept("in the"):
        return Form.PLACE, words.take("a position", *w.POSITIONS), (first,)
    if words.next not in (None, "on", "without", "all"):
        words.take("a relation, a position, a clause or 'on'", *w.RELATIONS, "in the", *Clause, "on")
    return Form.SHOW, "", (first,)


def _parse_phrase(words: _Words) -> Phrase:
    if words.accept("the"):
        signs = w.LETTERS if words.take("the kind of sign", "letter", "digit") == "letter" else w.DIGITS
        glyph = words.take("a known sign", *signs)
        words.take("the word before its color", "in")
        return Phrase(glyph, words.take("a color", *w.COLORS))
    number = words.take("the start of an object", "a", "an", *w.NUMBERS)
    start = words.index
    phrase = _parse_attributes(words, w.NUMBERS.get(number, 1))
    expected = _article(words.words[start])
    if number in ("a", "an") and number != expected:
        raise ValueError(f"word {start}, {number!r}, does not fit {words.words[start]!r}; it must be {expected!r}")
    return phrase


def _parse_plural(words: _Words) -> Phrase:
    return Phrase(color=words.accept(*w.COLORS), shape=w.SINGULARS[words.take("shapes", *w.SINGULARS)])


def _parse_attributes(words: _Words, count: int) -> Phrase:
    size, style = words.accept(*w.SIZES), words.accept(*w.STYLES)
    pose, color = words.accept(w.TILTED), words.accept(*w.COLORS)
    noun = words.take("an attribute or a shape", *(w.SINGULARS if count > 1 else (*w.SHAPES, "shape")))
    shape: str | None = w.SINGULARS.get(noun, noun)
    shape_hint = None
    if shape == "shape":
        shape, shape_hint = None, words.take("a description of the shape", *w.SHAPE_HINTS)
    if pose and shape != "cross":
        raise ValueError(f"only a cross can be tilted, not a {shape or 'shape'}")
    if shape == "triangle" and words.accept("pointing"):
        pose = words.take("a direction", *w.POINTING)
    color_hint = None
    if color is None and words.accept("the colour of"):
        color_hint = words.take("an example of a color", *w.COLOR_HINTS)
    return Phrase(shape, color, size, style, pose, count, color_hint, shape_hint)


@lru_cache(maxsize=4096)
def _describe(phrase: Phrase) -> str:
    if phrase.is_glyph:
        return f"the {'letter' if phrase.shape in w.LETTERS else 'digit'} {phrase.shape} in {phrase.color}"
    tilted = phrase.pose == w.TILTED
    shape = phrase.shape or "shape"
    parts = (
        *(phrase.size, phrase.style, phrase.pose if tilted else None, phrase.color),
        *(w.PLURALS[shape] if phrase.count > 1 else shape, phrase.shape_hint),
        f"pointing {phrase.pose}" if phrase.pose and not tilted else None,
        f"the colour of {phrase.color_hint}" if phrase.color_hint else None,
    )
    text = " ".join(part for part in parts if part)
    number = {count: name for name, count in w.NUMBERS.items()}.get(phrase.count, _article(text))
    return f"{number} {text}"


def _describe_plural(phrase: Phrase) -> str:
    shapes = w.PLURALS[phrase.possible_shapes[0]]
    return f"{phrase.color} {shapes}" if phrase.color else shapes


def _article(following: str) -> str:
    return "an" if following[0] in "aeiou" else "a"


def _differ(one: Phrase, other: Phrase) -> bool:
    colors = {one.resolved_color, other.resolved_color}
    return (len(colors) == 2 and None not in colors) or not set(one.possible_shapes) & set(other.possible_shapes)
