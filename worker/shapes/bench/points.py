"""The test points of a sentence: what each is about, and the rule by which what is seen in an image meets it."""

from dataclasses import dataclass
from enum import StrEnum

from worker.shapes.bench import words as say
from worker.shapes.bench.grammar import PRONOUNS, Clause, Form, Phrase, Sentence
from worker.shapes.bench.seen import Seen

MOST_POINTS = 4
LAYOUT = "Entity Layout - Two-Dimensional Space"
DIMENSION_OF_RELATION = {
    **dict.fromkeys(say.SIDES, LAYOUT),
    **dict.fromkeys(say.DEPTHS, "Entity Layout - Three-Dimensional Space"),
    **dict.fromkeys(say.CONTACTS, "Action - Contact Interaction"),
    **dict.fromkeys(say.COMPARISONS, "Relationship - Comparison"),
    say.INSIDE: "Relationship - Inclusion",
    say.SAME_COLOUR: "Relationship - Similarity",
}


@dataclass(frozen=True)
class Match:
    """Which objects are meant. What is None or empty is any."""

    colour: str | None = None
    shapes: tuple[str, ...] = ()
    size: str | None = None
    style: str | None = None
    pose: str | None = None

    def fits(self, thing: Seen) -> bool:
        """Whether `thing` is meant."""
        return (
            self.colour in (None, thing.colour)
            and (not self.shapes or thing.shape in self.shapes)
            and self.size in (None, thing.size)
            and self.style in (None, thing.style)
            and self.pose in (None, thing.pose)
        )


class Rule(StrEnum):
    """What must be true of an image, of the objects that fit `matches`, and of `value`."""

    ALL = "all"
    """There is an object, and every one fits the match."""
    EACH = "each"
    """For each match there is an object."""
    COUNT = "count"
    """So many objects fit the match."""
    NONE = "none"
    """There is an object, and none fits the match."""
    RELATION = "relation"
    """Two objects, one for each match, are in the relation."""
    ONLY = "only"
    """An object fits the first match, and none the second."""
    PLACE = "place"
    """An object that fits the match is in the place."""
    LINE = "line"
    """All objects, two or more, are in a row or a column."""
    COUNTS = "counts"
    """As many, or more, fit the first match as fit the second, which at least one does."""
    EITHER = "either"
    """Objects fit one of the two matches, not both."""
    ALIKE = "alike"
    """All objects, two or more, have one colour."""


@dataclass(frozen=True)
class TestPoint:
    dimension: str
    description: str
    rule: Rule
    matches: tuple[Match, ...] = ()
    value: str = ""

    __test__ = False  # no case of pytest, whatever its name


def points(sentence: Sentence) -> tuple[TestPoint, ...]:
    """What images of the sentence are judged on: one to four test points, the sentence's own dimension first."""
    found = [*_clause(sentence), *_form(sentence)]
    return tuple(found[:MOST_POINTS])


def full_match(phrase: Phrase) -> Match:
    """Fits objects of which all is true that the phrase tells."""
    shapes = phrase.meant_shapes if phrase.shape or phrase.shape_hint else ()
    return Match(phrase.meant_colour, shapes, phrase.size, phrase.style, phrase.pose)


def references(sentence: Sentence) -> tuple[Match, Match]:
    """How the two objects of a sentence are told apart: by colours where both have one, else by shapes."""
    one, other = sentence.phrases
    if one.meant_colour and other.meant_colour and one.meant_colour != other.meant_colour:
        return Match(one.meant_colour), Match(other.meant_colour)
    return Match(shapes=one.meant_shapes), Match(shapes=other.meant_shapes)


def _clause(sentence: Sentence) -> list[TestPoint]:
    clause, word = sentence.clause, sentence.clause_word
    if clause is None:
        return []
    if clause is Clause.ALIKE:
        return [TestPoint("Grammar - Consistency", "all objects have one colour", Rule.ALIKE)]
    if clause is Clause.WITHOUT:
        unwanted = Match(shapes=(say.SINGULARS[word],)) if word in say.SINGULARS else Match(word)
        return [TestPoint("Grammar - Negation", f"nothing {word} is in the image", Rule.NONE, (unwanted,))]
    assert clause in PRONOUNS
    dimension, said = "Grammar - Pronoun Reference", f"{clause.removeprefix('and ')} {word}"
    shapes = [phrase.meant_shapes for phrase in sentence.phrases]
    if clause is Clause.IT:
        return [TestPoint(dimension, said, Rule.ALL, (Match(word),))]
    if clause is Clause.BOTH:
        return [TestPoint(dimension, said, Rule.EACH, tuple(Match(word, shape) for shape in shapes))]
    meant, rest = shapes if clause is Clause.FORMER else shapes[::-1]
    told = f"{said}, and the other is not"
    return [TestPoint(dimension, told, Rule.ONLY, (Match(word, meant), Match(word, rest)))]


def _form(sentence: Sentence) -> list[TestPoint]:
    phrase = sentence.phrases[0]
    match sentence.form:
        case Form.SHOW:
            return _shown(phrase)
        case Form.PLACE:
            place = f"the object is in the {sentence.word}"
            return [TestPoint(LAYOUT, place, Rule.PLACE, (Match(),), sentence.word), *_shown(phrase)]
        case Form.LINE:
            line = f"the objects are in a {sentence.word}"
            return [
                TestPoint("Relationship - Composition", line, Rule.LINE, (), sentence.word),
                *_shown(phrase),
            ]
        case Form.COUNTS:
            joint = "as" if sentence.word == say.AS_MANY else "than"
            told = f"{sentence.word} objects of the first kind {joint} of the second"
            counted = TestPoint("Logical Reasoning", told, Rule.COUNTS, references(sentence), sentence.word)
            return [counted, *_told_of_two(sentence)]
        case Form.EITHER:
            full = tuple(full_match(phrase) for phrase in sentence.phrases)
            one = TestPoint("Logical Reasoning", "one of the two is there, and not the other", Rule.EITHER, full)
            return [one, _number(1)]
        case Form.PAIR:
            return _paired(sentence)


def _paired(sentence: Sentence) -> list[TestPoint]:
    full = tuple(full_match(phrase) for phrase in sentence.phrases)
    glyphs = [phrase for phrase in sentence.phrases if phrase.is_glyph]
    # A sign that should be there is asked for first: it is what such a sentence is about.
    text = [_text(phrase, Rule.EACH) for phrase in glyphs]
    if sentence.word == say.AND:
        names = ("first", "second")
        matched = [
            TestPoint("Compound - Feature Matching", f"the {name} object is as told", Rule.EACH, (match,))
            for name, match in zip(names, full, strict=True)
        ]
        return [*text, *matched, _number(2)]
    told = f"the first object is {sentence.word} the second"
    dimension = DIMENSION_OF_RELATION[sentence.word]
    related = TestPoint(dimension, told, Rule.RELATION, references(sentence), sentence.word)
    return [*text, related, *_told_of_two(sentence)]


def _told_of_two(sentence: Sentence) -> list[TestPoint]:
    """Colours and shapes of both, where the sentence tells them."""
    one, other = sentence.phrases
    by, found = references(sentence), []
    if one.meant_colour and other.meant_colour:
        colours = (Match(one.meant_colour), Match(other.meant_colour))
        told = f"something {one.meant_colour} and something {other.meant_colour} are there"
        if one.meant_colour == other.meant_colour:
            told = f"two objects are {one.meant_colour}"
        found.append(TestPoint("Attribute - Color", told, Rule.EACH, colours))
    shapes = (Match(by[0].colour, one.meant_shapes), Match(by[1].colour, other.meant_shapes))
    told = f"{' or '.join(one.meant_shapes)}, and {' or '.join(other.meant_shapes)}, each as told"
    if not (one.is_glyph or other.is_glyph):
        found.append(TestPoint("Attribute - Shape", told, Rule.EACH, shapes))
    return found


def _shown(phrase: Phrase) -> list[TestPoint]:
    """Everything that is told of the only kind of object, what is rarer first."""
    if phrase.is_glyph:
        return [_text(phrase, Rule.ALL), TestPoint(*_colour(phrase), Rule.ALL, (Match(phrase.colour),))]
    found: list[TestPoint] = []
    if phrase.style:
        found.append(TestPoint("Style", f"it is {phrase.style}", Rule.ALL, (Match(style=phrase.style),)))
    if phrase.pose:
        pose = phrase.pose if phrase.pose == say.TILTED else f"pointing {phrase.pose}"
        found.append(TestPoint("Action - State", f"it is {pose}", Rule.ALL, (Match(pose=phrase.pose),)))
    if phrase.shape_hint:
        told = f"it is a shape {phrase.shape_hint}: {' or '.join(phrase.meant_shapes)}"
        found.append(TestPoint("World Knowledge", told, Rule.ALL, (Match(shapes=phrase.meant_shapes),)))
    if phrase.colour_hint:
        told = f"it has the colour of {phrase.colour_hint}: {phrase.meant_colour}"
        found.append(TestPoint("World Knowledge", told, Rule.ALL, (Match(phrase.meant_colour),)))
    if phrase.count > 1:
        found.append(_number(phrase.count))
    if phrase.size:
        found.append(TestPoint("Attribute - Size", f"it is {phrase.size}", Rule.ALL, (Match(size=phrase.size),)))
    if phrase.colour:
        found.append(TestPoint(*_colour(phrase), Rule.ALL, (Match(phrase.colour),)))
    if phrase.shape:
        told = f"it is a {phrase.shape}"
        found.append(TestPoint("Attribute - Shape", told, Rule.ALL, (Match(shapes=(phrase.shape,)),)))
    return found


def _text(phrase: Phrase, rule: Rule) -> TestPoint:
    told = f"it reads {phrase.shape}" if rule is Rule.ALL else f"the sign {phrase.shape} can be read"
    return TestPoint("Text Generation", told, rule, (Match(shapes=phrase.meant_shapes),))


def _colour(phrase: Phrase) -> tuple[str, str]:
    return "Attribute - Color", f"it is {phrase.colour}"


def _number(count: int) -> TestPoint:
    told = f"the number of objects is {count}"
    return TestPoint("Attribute - Quantity", told, Rule.COUNT, (Match(),), str(count))
