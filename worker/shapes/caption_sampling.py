"""Random captions of the basic world, their split into training and held-out captions, and shared helpers."""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import lru_cache
from typing import TypeVar

import numpy as np

from worker.shapes import words as w
from worker.shapes.grammar import Clause, Form, Phrase, Sentence, caption, parse

Rng = np.random.Generator
T = TypeVar("T")

ONE_OBJECT_SHARE = 0.2
"""Share of sampled scenes with a single object."""
PARTS = 8
"""Number of parts into which captions are divided, by a hash of their meaning."""
MAX_TRAIN, MAX_HELDOUT = 30000, 4000
"""Maximum numbers of training and held-out captions.

The world has 36,594 and 5,346, but rejection sampling of the last captions is slow.
"""


def choose(rng: Rng, options: Sequence[T]) -> T:
    """Choose one of `options` uniformly at random."""
    return options[int(rng.integers(len(options)))]


def canonical(sentence: Sentence) -> Sentence:
    """Return the canonical form of a sentence; for example, "B right of A" becomes "A left of B".

    Of the equivalent forms, it is the first when ordered by word and caption.
    """
    mirrored = sentence.form is Form.EITHER or (sentence.form is Form.COUNTS and sentence.word == w.AS_MANY)
    word = sentence.word
    if sentence.form is Form.PAIR and word in w.MIRROR:
        mirrored, word = True, w.MIRROR[word]
    if not mirrored:
        return sentence
    swapped = {Clause.FORMER: Clause.LATTER, Clause.LATTER: Clause.FORMER}
    clause = swapped.get(sentence.clause, sentence.clause) if sentence.clause else None
    other = replace(sentence, word=word, phrases=sentence.phrases[::-1], clause=clause)
    return min(sentence, other, key=lambda one: (one.word, caption(one)))


def part_number(sentence: Sentence | str, prefix: str = "") -> int:
    """Return the part number of a sentence or caption, from 0 to PARTS - 1. It is the same for equal meanings."""
    meaning = parse(sentence) if isinstance(sentence, str) else sentence
    return hashlib.sha256((prefix + caption(canonical(meaning))).encode()).digest()[0] % PARTS


def distinct(
    count: int, sample: Callable[[Rng], Sentence], belongs: Callable[[Sentence], bool], seed: int
) -> tuple[str, ...]:
    """Return the first `count` distinct captions of a random sequence of sentences for which `belongs` is true.

    Raises ValueError if such captions are too rare.
    """
    rng = np.random.default_rng(seed)
    found: dict[str, None] = {}  # ordered by first occurrence
    for _ in range(200 * count + 1000):
        if belongs(sentence := sample(rng)):
            found[caption(sentence)] = None
        if len(found) == count:
            return tuple(found)
    raise ValueError(f"found only {len(found)} of {count} captions; request fewer")


def sample_scene(rng: Rng) -> Sentence:
    """Sample a random sentence of the basic world, mostly with two objects. All attributes are uniform."""
    first, background = _sample_object(rng), choose(rng, w.BACKGROUNDS)
    if rng.random() < ONE_OBJECT_SHARE:
        return Sentence(Form.SHOW, (first,), background)
    second = _sample_object(rng)
    while (second.color, second.shape) == (first.color, first.shape):
        second = _sample_object(rng)
    return Sentence(Form.PAIR, (first, second), background, choose(rng, w.SIDES))


def _sample_object(rng: Rng) -> Phrase:
    return Phrase(size=choose(rng, w.SIZES), color=choose(rng, w.COLORS), shape=choose(rng, w.SHAPES))


def is_heldout(sentence: Sentence | str) -> bool:
    """Whether a sentence or caption of the basic world is excluded from training."""
    return part_number(sentence) == 0


@lru_cache
def train_prompts(count: int = 4096) -> tuple[str, ...]:
    """Return the first `count` training captions of a fixed random sequence.

    Raises ValueError if `count` exceeds MAX_TRAIN.
    """
    return _prompts(count, MAX_TRAIN, heldout=False, seed=0)


@lru_cache
def heldout_prompts(count: int = 1024) -> tuple[str, ...]:
    """Return the first `count` held-out captions of a fixed random sequence.

    Raises ValueError if `count` exceeds MAX_HELDOUT.
    """
    return _prompts(count, MAX_HELDOUT, heldout=True, seed=1)


def _prompts(count: int, maximum: int, heldout: bool, seed: int) -> tuple[str, ...]:
    if count > maximum:
        raise ValueError(f"cannot sample {count} captions; at most {maximum} are available")
    return distinct(count, sample_scene, lambda sentence: is_heldout(sentence) == heldout, seed)
