"""Scenes of the shapes world, their captions, and the predicates that an image of a scene must satisfy."""

import hashlib
from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache

import numpy as np

SIZES = ("small", "large")
COLOURS = ("red", "green", "blue", "yellow", "purple", "orange")
SHAPES = ("circle", "square", "triangle", "diamond", "cross")
BACKGROUNDS = ("white", "gray", "black")
RELATIONS = ("left of", "right of", "above", "below")

VOCABULARY = ("a", "on", *SIZES, *COLOURS, *SHAPES, *BACKGROUNDS, "left", "right", "of", "above", "below")
"""Every word that occurs in a caption; the tokenizers are made of it."""

ONE_OBJECT_SHARE = 0.2
"""Share of sampled scenes with a single object."""
HELDOUT_ONE_IN = 8
MOST_TRAIN, MOST_HELDOUT = 30000, 4000
"""Captions that can be drawn: the world has 36,594 and 5,346, and the last ones would take very long to meet."""

_MIRROR = {"left of": "right of", "right of": "left of", "above": "below", "below": "above"}


@dataclass(frozen=True)
class Object:
    size: str
    colour: str
    shape: str

    @property
    def kind(self) -> tuple[str, str]:
        """What identifies the object in its scene: colour and shape."""
        return (self.colour, self.shape)


@dataclass(frozen=True)
class Relation:
    """`objects[subject]` is `name` (left of, above, ...) `objects[other]`."""

    subject: int
    name: str
    other: int


@dataclass(frozen=True)
class Scene:
    """One object, or two objects with one relation between them, on a background."""

    objects: tuple[Object, ...]
    background: str
    relations: tuple[Relation, ...] = ()

    def __post_init__(self) -> None:
        if (len(self.objects), len(self.relations)) not in ((1, 0), (2, 1)):
            raise ValueError(f"a scene is one object, or two with one relation; not {self.objects}, {self.relations}")
        kinds = [thing.kind for thing in self.objects]
        if len(set(kinds)) < len(kinds):
            colour, shape = kinds[0]
            raise ValueError(f"two objects are a {colour} {shape}; objects of one scene must differ in colour or shape")


class PredicateKind(StrEnum):
    COUNT = "count"
    OBJECT = "object"
    SIZE = "size"
    RELATION = "relation"
    BACKGROUND = "background"


@dataclass(frozen=True)
class Predicate:
    """One thing an image must show: `objects` are those it speaks of, `value` what it says of them."""

    kind: PredicateKind
    value: str
    objects: tuple[Object, ...] = ()

    def __str__(self) -> str:
        names = [f"the {thing.colour} {thing.shape}" for thing in self.objects]
        match self.kind:
            case PredicateKind.COUNT:
                return f"the number of objects is {self.value}"
            case PredicateKind.OBJECT:
                return f"there is {self.value}"
            case PredicateKind.RELATION:
                return f"{names[0]} is {self.value} {names[1]}"
            case PredicateKind.SIZE:
                return f"{names[0]} is {self.value}"
            case PredicateKind.BACKGROUND:
                return f"the background is {self.value}"


def predicates(scene: Scene) -> tuple[Predicate, ...]:
    """What an image of `scene` must satisfy: 4 predicates for one object, 7 for two."""
    found = [Predicate(PredicateKind.COUNT, str(len(scene.objects)))]
    for thing in scene.objects:
        found.append(Predicate(PredicateKind.OBJECT, f"a {thing.colour} {thing.shape}", (thing,)))
        found.append(Predicate(PredicateKind.SIZE, thing.size, (thing,)))
    for relation in scene.relations:
        pair = (scene.objects[relation.subject], scene.objects[relation.other])
        found.append(Predicate(PredicateKind.RELATION, relation.name, pair))
    found.append(Predicate(PredicateKind.BACKGROUND, scene.background))
    return tuple(found)


def caption(scene: Scene) -> str:
    """The one caption of `scene`, such as "a small red circle left of a large blue square on white"."""
    names = [f"a {thing.size} {thing.colour} {thing.shape}" for thing in scene.objects]
    if scene.relations:
        relation = scene.relations[0]
        names = [names[relation.subject], relation.name, names[relation.other]]
    return f"{' '.join(names)} on {scene.background}"


@lru_cache(maxsize=65536)
def parse(text: str) -> Scene:
    """The scene that `text` describes; the inverse of `caption`. ValueError names the word that is not understood."""
    words = _Words(text)
    objects: tuple[Object, ...] = (_parse_object(words),)
    relations: tuple[Relation, ...] = ()
    following = words.take("a relation or 'on'", ("left", "right", "above", "below", "on"))
    if following != "on":
        if following in ("left", "right"):
            following += " " + words.take("the rest of the relation", ("of",))
        objects += (_parse_object(words),)
        relations = (Relation(0, following, 1),)
        words.take("the word before the background", ("on",))
    background = words.take("a background", BACKGROUNDS)
    words.end()
    return Scene(objects, background, relations)


def sample_scene(rng: np.random.Generator) -> Scene:
    """A scene drawn at random: mostly two objects, all attributes uniform."""
    first = _sample_object(rng)
    background = _choose(rng, BACKGROUNDS)
    if rng.random() < ONE_OBJECT_SHARE:
        return Scene((first,), background)
    second = _sample_object(rng)
    while second.kind == first.kind:
        second = _sample_object(rng)
    return Scene((first, second), background, (Relation(0, _choose(rng, RELATIONS), 1),))


def canonical(scene: Scene) -> Scene:
    """The scene with its relation told as "left of" or "above": "B right of A" becomes "A left of B"."""
    if not scene.relations or scene.relations[0].name in ("left of", "above"):
        return scene
    relation = scene.relations[0]
    swapped = (scene.objects[relation.other], scene.objects[relation.subject])
    return Scene(swapped, scene.background, (Relation(0, _MIRROR[relation.name], 1),))


def is_heldout(text: str) -> bool:
    """Whether no training may see this caption. Both ways to tell the same scene fall on the same side."""
    told = caption(canonical(parse(text)))
    return hashlib.sha256(told.encode()).digest()[0] % HELDOUT_ONE_IN == 0


@lru_cache
def train_prompts(count: int = 4096) -> tuple[str, ...]:
    """The first `count` distinct captions of a fixed random sequence that are not held out."""
    return _distinct_captions(count, heldout=False, seed=0)


@lru_cache
def heldout_prompts(count: int = 1024) -> tuple[str, ...]:
    """The first `count` distinct captions of a fixed random sequence that are held out."""
    return _distinct_captions(count, heldout=True, seed=1)


class _Words:
    """The words of a caption, taken one by one."""

    def __init__(self, text: str) -> None:
        self.words = text.lower().split()
        self.place = 0

    def take(self, what: str, allowed: tuple[str, ...]) -> str:
        choices = ", ".join(allowed)
        if self.place == len(self.words):
            raise ValueError(f"the caption ends after {self.place} words where {what} should come; allowed: {choices}")
        word = self.words[self.place]
        self.place += 1
        if word not in allowed:
            raise ValueError(f"word {self.place}, {word!r}, is not {what}; allowed here: {choices}")
        return word

    def end(self) -> None:
        if self.place < len(self.words):
            word = self.words[self.place]
            raise ValueError(f"word {self.place + 1}, {word!r}, comes after the background, where a caption ends")


def _parse_object(words: _Words) -> Object:
    words.take("the article of an object", ("a",))
    size = words.take("a size", SIZES)
    colour = words.take("a colour", COLOURS)
    return Object(size, colour, words.take("a shape", SHAPES))


def _sample_object(rng: np.random.Generator) -> Object:
    return Object(_choose(rng, SIZES), _choose(rng, COLOURS), _choose(rng, SHAPES))


def _choose(rng: np.random.Generator, options: tuple[str, ...]) -> str:
    return options[int(rng.integers(len(options)))]


def _distinct_captions(count: int, heldout: bool, seed: int) -> tuple[str, ...]:
    most = MOST_HELDOUT if heldout else MOST_TRAIN
    if count > most:
        raise ValueError(f"{count} captions were asked for; at most {most} can be drawn")
    rng = np.random.default_rng(seed)
    # A dict keeps the order of first occurrence.
    found: dict[str, None] = {}
    while len(found) < count:
        text = caption(sample_scene(rng))
        if is_heldout(text) == heldout:
            found[text] = None
    return tuple(found)
