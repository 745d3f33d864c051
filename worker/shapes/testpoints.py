"""Test points: the statements that a caption makes about an image, each with the rule that checks it."""

from dataclasses import dataclass
from enum import StrEnum

from worker.shapes import words as w
from worker.shapes.grammar import PRONOUNS, Clause, Form, Phrase, Sentence, conjunction
from worker.shapes.image_content import PerceivedObject

MAX_POINTS = 4
PREDICATES = ("count", "object", "size", "relation", "background")
"""Dimensions of the test points in the basic world."""
LAYOUT, LOGIC = "Entity Layout - Two-Dimensional Space", "Logical Reasoning"
COLOR, SHAPE, KNOWLEDGE = "Attribute - Color", "Attribute - Shape", "World Knowledge"
DIMENSION_OF_RELATION = {
    **dict.fromkeys(w.SIDES, LAYOUT),
    **dict.fromkeys(w.DEPTHS, "Entity Layout - Three-Dimensional Space"),
    **dict.fromkeys(w.CONTACTS, "Action - Contact Interaction"),
    **dict.fromkeys(w.COMPARISONS, "Relationship - Comparison"),
    w.INSIDE: "Relationship - Inclusion",
    w.SAME_COLOR: "Relationship - Similarity",
}


@dataclass(frozen=True)
class Match:
    """A condition on an object. None or an empty tuple matches any value."""

    color: str | None = None
    shapes: tuple[str, ...] = ()
    size: str | None = None
    style: str | None = None
    pose: str | None = None

    def fits(self, thing: PerceivedObject) -> bool:
        """Whether `thing` satisfies the condition."""
        return (
            self.color in (None, thing.color)
            and (not self.shapes or thing.shape in self.shapes)
            and self.size in (None, thing.size)
            and self.style in (None, thing.style)
            and self.pose in (None, thing.pose)
        )


class Rule(StrEnum):
    """A condition on an image. It depends on the test point's `matches` and `value`."""

    ALL = "all"
    """There is an object, and every object satisfies the match."""
    EACH = "each"
    """There is a different object for each match."""
    COUNT = "count"
    """`value` objects satisfy the match."""
    NONE = "none"
    """There is an object, and no object satisfies the match."""
    RELATION = "relation"
    """Two objects, one for each match, are in the relation `value`."""
    ONLY = "only"
    """An object satisfies the first match, and no object satisfies the second."""
    PLACE = "place"
    """An object that satisfies the match is in the position `value`."""
    LINE = "line"
    """There are at least two objects, and all are in one row or column."""
    COUNTS = "counts"
    """As many objects satisfy the first match as the second, or more, depending on `value`.

    At least one object satisfies the second match.
    """
    EITHER = "either"
    """Exactly one of the two matches is satisfied by an object."""
    ALIKE = "alike"
    """There are at least two objects, and all have the same color."""
    BACKGROUND = "background"
    """The background is `value`."""


@dataclass(frozen=True)
class TestPoint:
    dimension: str
    description: str
    rule: Rule
    matches: tuple[Match, ...] = ()
    value: str = ""

    __test__ = False  # not a pytest class despite its name


def predicates(sentence: Sentence) -> tuple[TestPoint, ...]:
    """Return the test points of a caption of the basic world: 4 for one object, 7 for two objects.

    Raises ValueError if the sentence is not a caption of the basic world.
    """
    phrases = sentence.phrases
    related = sentence.form is Form.PAIR and sentence.word in w.SIDES
    plain = all(
        one == Phrase(one.shape, one.color, one.size) and one.shape and one.color and one.size for one in phrases
    )
    if sentence.clause or not plain or not (related or sentence.form is Form.SHOW):
        raise ValueError(
            "not a caption of the basic world: expected one object, or two with a spatial relation, "
            "each described as 'a SIZE COLOR SHAPE'"
        )
    names = [f"the {one.color} {one.shape}" for one in phrases]
    matches = [Match(one.color, one.possible_shapes) for one in phrases]
    found = [TestPoint("count", f"the number of objects is {len(phrases)}", Rule.COUNT, (Match(),), str(len(phrases)))]
    for one, name, match in zip(phrases, names, matches, strict=True):
        found.append(TestPoint("object", f"there is a {one.color} {one.shape}", Rule.EACH, (match,)))
        sized = Match(match.color, match.shapes, one.size)
        found.append(TestPoint("size", f"{name} is {one.size}", Rule.EACH, (sized,)))
    if related:
        relation = f"{names[0]} is {sentence.word} {names[1]}"
        found.append(TestPoint("relation", relation, Rule.RELATION, tuple(matches), sentence.word))
    background = sentence.background
    return (*found, TestPoint("background", f"the background is {background}", Rule.BACKGROUND, (), background))


def points(sentence: Sentence) -> tuple[TestPoint, ...]:
    """Return the one to four test points of a `shapes-bench` prompt, starting with the sentence's main dimension."""
    return tuple([*_clause_points(sentence), *_form_points(sentence)][:MAX_POINTS])


def full_match(phrase: Phrase) -> Match:
    """Return the condition that an object satisfies every attribute in the description."""
    shapes = phrase.possible_shapes if phrase.shape or phrase.shape_hint else ()
    return Match(phrase.resolved_color, shapes, phrase.size, phrase.style, phrase.pose)


def references(sentence: Sentence) -> tuple[Match, Match]:
    """Return conditions that identify the two objects of a sentence: colors if they differ, otherwise shapes."""
    one, other = sentence.phrases
    if one.resolved_color and other.resolved_color and one.resolved_color != other.resolved_color:
        return Match(one.resolved_color), Match(other.resolved_color)
    return Match(shapes=one.possible_shapes), Match(shapes=other.possible_shapes)


def _clause_points(sentence: Sentence) -> list[TestPoint]:
    clause, word = sentence.clause, sentence.clause_word
    if clause is None:
        return []
    if clause is Clause.ALIKE:
        return [TestPoint("Grammar - Consistency", "all objects have one colour", Rule.ALIKE)]
    if clause is Clause.WITHOUT:
        unwanted = Match(shapes=(w.SINGULARS[word],)) if word in w.SINGULARS else Match(word)
        return [TestPoint("Grammar - Negation", f"nothing {word} is in the image", Rule.NONE, (unwanted,))]
    assert clause in PRONOUNS
    text = f"{clause.removeprefix('and ')} {word}"
    matches = tuple(Match(word, phrase.possible_shapes) for phrase in sentence.phrases)
    rule = Rule.EACH
    if clause is Clause.IT:
        rule, matches = Rule.ALL, (Match(word),)
    elif clause is not Clause.BOTH:
        rule, matches = Rule.ONLY, matches if clause is Clause.FORMER else matches[::-1]
        text += ", and the other is not"
    return [TestPoint("Grammar - Pronoun Reference", text, rule, matches)]


def _form_points(sentence: Sentence) -> list[TestPoint]:
    phrase, word = sentence.phrases[0], sentence.word
    match sentence.form:
        case Form.SHOW:
            return _attributes(phrase)
        case Form.PLACE:
            position = TestPoint(LAYOUT, f"the object is in the {word}", Rule.PLACE, (Match(),), word)
            return [position, *_attributes(phrase)]
        case Form.LINE:
            line = TestPoint("Relationship - Composition", f"the objects are in a {word}", Rule.LINE, (), word)
            return [line, *_attributes(phrase)]
        case Form.COUNTS:
            text = f"{word} objects of the first kind {conjunction(word)} of the second"
            counted = TestPoint(LOGIC, text, Rule.COUNTS, references(sentence), word)
            return [counted, *_pair_attributes(sentence)]
        case Form.EITHER:
            matches = tuple(map(full_match, sentence.phrases))
            return [TestPoint(LOGIC, "one of the two is there, and not the other", Rule.EITHER, matches), _number(1)]
        case Form.PAIR:
            return _pair_points(sentence)


def _pair_points(sentence: Sentence) -> list[TestPoint]:
    # The point for the sign comes first, because text is the main dimension of a sentence with a sign.
    signs = [_sign(phrase, Rule.EACH) for phrase in sentence.phrases if phrase.is_glyph]
    if sentence.word == w.AND:
        matched = [
            TestPoint("Compound - Feature Matching", f"the {name} object is as told", Rule.EACH, (full_match(phrase),))
            for name, phrase in zip(("first", "second"), sentence.phrases, strict=True)
        ]
        return [*signs, *matched, _number(2)]
    text = f"the first object is {sentence.word} the second"
    dimension = DIMENSION_OF_RELATION[sentence.word]
    related = TestPoint(dimension, text, Rule.RELATION, references(sentence), sentence.word)
    return [*signs, related, *_pair_attributes(sentence)]


def _pair_attributes(sentence: Sentence) -> list[TestPoint]:
    """Return test points for the colors and shapes of both objects, if the sentence states them."""
    one, other = sentence.phrases
    found = []
    if one.resolved_color and other.resolved_color:
        text = f"something {one.resolved_color} and something {other.resolved_color} are there"
        if one.resolved_color == other.resolved_color:
            text = f"two objects are {one.resolved_color}"
        colors = (Match(one.resolved_color), Match(other.resolved_color))
        found.append(TestPoint(COLOR, text, Rule.EACH, colors))
    if not (one.is_glyph or other.is_glyph):
        text = f"{' or '.join(one.possible_shapes)}, and {' or '.join(other.possible_shapes)}, each as told"
        first, second = references(sentence)
        shapes = (Match(first.color, one.possible_shapes), Match(second.color, other.possible_shapes))
        found.append(TestPoint(SHAPE, text, Rule.EACH, shapes))
    return found


def _attributes(phrase: Phrase) -> list[TestPoint]:
    """Return a test point for every stated attribute of a phrase, starting with the rarest attributes."""
    shapes, color = phrase.possible_shapes, phrase.resolved_color
    named_color = TestPoint(COLOR, f"it is {color}", Rule.ALL, (Match(color),))
    if phrase.is_glyph:
        return [_sign(phrase, Rule.ALL), named_color]
    hinted_shape = f"it is a shape {phrase.shape_hint}: {' or '.join(shapes)}"
    hinted_color = f"it has the colour of {phrase.color_hint}: {color}"
    pose = phrase.pose if phrase.pose == w.TILTED else f"pointing {phrase.pose}"
    found = (
        (phrase.style, TestPoint("Style", f"it is {phrase.style}", Rule.ALL, (Match(style=phrase.style),))),
        (phrase.pose, TestPoint("Action - State", f"it is {pose}", Rule.ALL, (Match(pose=phrase.pose),))),
        (phrase.shape_hint, TestPoint(KNOWLEDGE, hinted_shape, Rule.ALL, (Match(shapes=shapes),))),
        (phrase.color_hint, TestPoint(KNOWLEDGE, hinted_color, Rule.ALL, (Match(color),))),
        (phrase.count > 1, _number(phrase.count)),
        (phrase.size, TestPoint("Attribute - Size", f"it is {phrase.size}", Rule.ALL, (Match(size=phrase.size),))),
        (phrase.color, named_color),
        (phrase.shape, TestPoint(SHAPE, f"it is a {phrase.shape}", Rule.ALL, (Match(shapes=shapes),))),
    )
    return [point for stated, point in found if stated]


def _sign(phrase: Phrase, rule: Rule) -> TestPoint:
    text = f"it reads {phrase.shape}" if rule is Rule.ALL else f"the sign {phrase.shape} can be read"
    return TestPoint("Text Generation", text, rule, (Match(shapes=phrase.possible_shapes),))


def _number(count: int) -> TestPoint:
    return TestPoint("Attribute - Quantity", f"the number of objects is {count}", Rule.COUNT, (Match(),), str(count))
