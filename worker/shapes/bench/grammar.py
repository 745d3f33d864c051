"""Captions of the benchmark: what a sentence says, how it is told, and how it is read back."""

from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache

from worker.shapes.bench import words as say
from worker.shapes.bench.words import BACKGROUNDS, COLOURS, SHAPES, SIZES

GLYPHS = (*say.LETTERS, *say.DIGITS)


@dataclass(frozen=True)
class Phrase:
    """What is told of one object, or of `count` alike. What is None is not told."""

    shape: str | None = None
    """One of SHAPES or GLYPHS."""
    colour: str | None = None
    size: str | None = None
    style: str | None = None
    pose: str | None = None
    """`tilted` of a cross, or where a triangle points."""
    count: int = 1
    colour_hint: str | None = None
    shape_hint: str | None = None

    @property
    def is_glyph(self) -> bool:
        """Whether it is a letter or a digit."""
        return self.shape in GLYPHS

    @property
    def meant_colour(self) -> str | None:
        """The colour that is told or hinted at."""
        return say.COLOUR_HINTS[self.colour_hint] if self.colour_hint else self.colour

    @property
    def meant_shapes(self) -> tuple[str, ...]:
        """The shapes that fit what is told."""
        if self.shape_hint:
            return say.SHAPE_HINTS[self.shape_hint]
        return (self.shape,) if self.shape else SHAPES


class Form(StrEnum):
    """How a sentence is built."""

    SHOW = "show"
    """PHRASE"""
    PLACE = "place"
    """PHRASE in the PLACE"""
    LINE = "line"
    """a row of PHRASE"""
    PAIR = "pair"
    """PHRASE RELATION PHRASE"""
    COUNTS = "counts"
    """as many PHRASE as PHRASE, more PHRASE than PHRASE"""
    EITHER = "either"
    """either PHRASE or PHRASE"""


class Clause(StrEnum):
    """What may follow; the sentence's `clause_word` completes it."""

    FORMER = "and the former is"
    LATTER = "and the latter is"
    BOTH = "and both are"
    IT = "and it is"
    WITHOUT = "without any"
    ALIKE = "all of one colour"


PRONOUNS = (Clause.FORMER, Clause.LATTER, Clause.BOTH, Clause.IT)


@dataclass(frozen=True)
class Sentence:
    """A caption's meaning."""

    form: Form
    phrases: tuple[Phrase, ...]
    background: str
    word: str = ""
    """The relation, the place, `row` or `column`, `as many` or `more`."""
    clause: Clause | None = None
    clause_word: str = ""

    def __post_init__(self) -> None:
        if len(self.phrases) == 2 and not _differ(*self.phrases):
            first, second = (_tell(phrase) for phrase in self.phrases)
            raise ValueError(f"{first!r} and {second!r} cannot be told apart; they must differ in colour or shape")


def caption(sentence: Sentence) -> str:
    """The one caption of `sentence`, such as "a red circle inside a blue square on white"."""
    first, *rest = sentence.phrases
    match sentence.form:
        case Form.SHOW:
            told = _tell(first)
        case Form.PLACE:
            told = f"{_tell(first)} in the {sentence.word}"
        case Form.LINE:
            told = f"a {sentence.word} of {_tell(first)}"
        case Form.PAIR:
            told = f"{_tell(first)} {sentence.word} {_tell(rest[0])}"
        case Form.COUNTS:
            joint = "as" if sentence.word == say.AS_MANY else "than"
            told = f"{sentence.word} {_tell_many(first)} {joint} {_tell_many(rest[0])}"
        case Form.EITHER:
            told = f"either {_tell(first)} or {_tell(rest[0])}"
    if sentence.clause:
        told += f" {sentence.clause} {sentence.clause_word}".rstrip()
    return f"{told} on {sentence.background}"


@lru_cache(maxsize=65536)
def parse(text: str) -> Sentence:
    """What `text` says; the inverse of `caption`. ValueError names the word that is not understood."""
    words = _Words(text)
    form, word, phrases = _parse_head(words)
    clause = words.accept(*Clause)
    clause_word = ""
    if clause == Clause.WITHOUT:
        clause_word = words.take("a colour or shapes", *COLOURS, *say.SINGULARS)
    elif clause in PRONOUNS:
        clause_word = words.take("a colour", *COLOURS)
    words.take("the word before the background", "on")
    background = words.take("a background", *BACKGROUNDS)
    words.end()
    return Sentence(form, phrases, background, word, Clause(clause) if clause else None, clause_word)


class _Words:
    """The words of a caption, taken one by one or several at once."""

    def __init__(self, text: str) -> None:
        self.words = text.lower().split()
        self.place = 0

    def accept(self, *allowed: str) -> str | None:
        """Take the first of `allowed`, each of one word or more, that comes next; None: none of them does."""
        for one in allowed:
            parts = one.lower().split()
            if self.words[self.place : self.place + len(parts)] == parts:
                self.place += len(parts)
                return one
        return None

    def take(self, what: str, *allowed: str) -> str:
        """Take one that must come next. Raises ValueError."""
        found = self.accept(*allowed)
        if found is None:
            choices = ", ".join(allowed)
            if self.place >= len(self.words):
                raise ValueError(f"the caption ends after {len(self.words)} words where {what} should come: {choices}")
            word = self.words[self.place]
            raise ValueError(f"word {self.place + 1}, {word!r}, is not {what}; allowed here: {choices}")
        return found

    def end(self) -> None:
        if self.place < len(self.words):
            word = self.words[self.place]
            raise ValueError(f"word {self.place + 1}, {word!r}, comes after the background, where a caption ends")


def _parse_head(words: _Words) -> tuple[Form, str, tuple[Phrase, ...]]:
    if words.accept("either"):
        first = _parse_phrase(words)
        words.take("the word between the two", "or")
        return Form.EITHER, "", (first, _parse_phrase(words))
    many = words.accept(say.AS_MANY, say.MORE)
    if many:
        first = _parse_many(words)
        words.take("the word between the two", "as" if many == say.AS_MANY else "than")
        return Form.COUNTS, many, (first, _parse_many(words))
    line = words.accept("a row of", "a column of")
    if line:
        return Form.LINE, line.split()[1], (_parse_phrase(words),)
    first = _parse_phrase(words)
    start = words.place
    # "and" may begin a clause, and "in" a relation.
    clause = words.accept(*PRONOUNS)
    words.place = start
    if clause:
        return Form.SHOW, "", (first,)
    relation = words.accept(*say.RELATIONS)
    if relation:
        return Form.PAIR, relation, (first, _parse_phrase(words))
    if words.accept("in the"):
        return Form.PLACE, words.take("a place", *say.PLACES), (first,)
    if words.place < len(words.words) and words.words[words.place] not in ("on", "without", "all"):
        words.take("a relation, a place, a clause or 'on'", *say.RELATIONS, "in the", *Clause, "on")
    return Form.SHOW, "", (first,)


def _parse_phrase(words: _Words) -> Phrase:
    if words.accept("the"):
        letters = words.take("what kind of sign it is", "letter", "digit") == "letter"
        glyph = words.take("a sign that is known", *(say.LETTERS if letters else say.DIGITS))
        words.take("the word before its colour", "in")
        return Phrase(glyph, words.take("a colour", *COLOURS))
    number = words.take("the beginning of an object", "a", "an", *say.NUMBERS)
    start = words.place
    phrase = _parse_rest(words, say.NUMBERS.get(number, 1))
    following = words.words[start]
    if number in ("a", "an") and number != _article(following):
        raise ValueError(f"word {start}, {number!r}, does not fit {following!r}; it must be {_article(following)!r}")
    return phrase


def _parse_many(words: _Words) -> Phrase:
    return Phrase(colour=words.accept(*COLOURS), shape=say.SINGULARS[words.take("shapes", *say.SINGULARS)])


def _parse_rest(words: _Words, count: int) -> Phrase:
    size, style = words.accept(*SIZES), words.accept(*say.STYLES)
    pose, colour = words.accept(say.TILTED), words.accept(*COLOURS)
    names = tuple(say.SINGULARS) if count > 1 else (*SHAPES, "shape")
    told = words.take("an attribute or a shape", *names)
    shape: str | None = say.SINGULARS.get(told, told)
    hint = None
    if shape == "shape":
        shape, hint = None, words.take("what kind of shape it is", *say.SHAPE_HINTS)
    if pose and shape != "cross":
        raise ValueError(f"only a cross can be told to be tilted, not a {shape or 'shape'}")
    if shape == "triangle" and words.accept("pointing"):
        pose = words.take("a direction", *say.POINTING)
    colour_hint = None
    if colour is None and words.accept("the colour of"):
        colour_hint = words.take("something of a known colour", *say.COLOUR_HINTS)
    return Phrase(shape, colour, size, style, pose, count, colour_hint, hint)


def _tell(phrase: Phrase) -> str:
    if phrase.is_glyph:
        return f"the {'letter' if phrase.shape in say.LETTERS else 'digit'} {phrase.shape} in {phrase.colour}"
    tilted = phrase.pose if phrase.pose == say.TILTED else None
    shape = phrase.shape or "shape"
    parts = [phrase.size, phrase.style, tilted, phrase.colour, say.PLURALS[shape] if phrase.count > 1 else shape]
    told = " ".join(part for part in parts if part)
    if phrase.shape_hint:
        told += f" {phrase.shape_hint}"
    if phrase.pose and not tilted:
        told += f" pointing {phrase.pose}"
    if phrase.colour_hint:
        told += f" the colour of {phrase.colour_hint}"
    number = {count: name for name, count in say.NUMBERS.items()}.get(phrase.count, _article(told))
    return f"{number} {told}"


def _tell_many(phrase: Phrase) -> str:
    shapes = say.PLURALS[phrase.meant_shapes[0]]
    return f"{phrase.colour} {shapes}" if phrase.colour else shapes


def _article(following: str) -> str:
    return "an" if following[0] in "aeiou" else "a"


def _differ(one: Phrase, other: Phrase) -> bool:
    colours = {one.meant_colour, other.meant_colour}
    return (len(colours) == 2 and None not in colours) or not set(one.meant_shapes) & set(other.meant_shapes)
