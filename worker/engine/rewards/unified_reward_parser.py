"""Reading what a UnifiedReward says. An answer of another form than was asked for is none: no number is made up.

A number is written in digits, with a point and more digits or without, and lies in 1 to 5. Nothing may follow it.
"""

import re
from collections.abc import Mapping
from enum import StrEnum

from service.contracts.catalog import Axis

LOWEST, HIGHEST = 1.0, 5.0
_FINAL = re.compile(r"Final Score:[^\S\n]*(.*)", re.DOTALL)
_AXIS = re.compile(r"(\w+) Score \(1-5\):[^\S\n]*(.*)")
_NUMBER = re.compile(r"\d{1,3}(?:\.\d+)?", re.ASCII)


class Unread(StrEnum):
    """Why there is no value in an answer; a kind of cause by which failures are counted."""

    NO_WORDS = "no_words"
    TRUNCATED = "truncated"
    MISSING_SCORE = "missing_score"
    REPEATED_SCORE = "repeated_score"
    NOT_A_NUMBER = "not_a_number"
    OUT_OF_RANGE = "out_of_range"
    EXTRA_TEXT = "extra_text"


def final_score(text: str) -> float | Unread:
    """The one number after the one «Final Score:», with which the answer ends. Words before it belong to the format."""
    if not text.strip():
        return Unread.NO_WORDS
    if text.count("Final Score:") > 1:
        return Unread.REPEATED_SCORE
    found = _FINAL.search(text)
    if found is None:
        return Unread.MISSING_SCORE
    number, *more = found[1].strip().splitlines() or [""]
    return Unread.EXTRA_TEXT if more else _number(number)


def axes_mean(text: str, weights: Mapping[Axis, float]) -> float | Unread:
    """The weighted mean of the axes' scores. Each line is «Axis Score (1-5): number», each axis stands once at most."""
    if not text.strip():
        return Unread.NO_WORDS
    scores: dict[str, float] = {}
    for line in filter(str.strip, text.splitlines()):
        found = _AXIS.fullmatch(line.strip())
        axis = found[1].lower() if found else ""
        if found is None or found[1] != axis.capitalize() or axis not in ("alignment", "coherence", "style"):
            # With no score at all it is a refusal rather than too much talk.
            return Unread.EXTRA_TEXT if "Score (1-5):" in text else Unread.MISSING_SCORE
        if axis in scores:
            return Unread.REPEATED_SCORE
        value = _number(found[2])
        if isinstance(value, Unread):
            return value
        scores[axis] = value
    needed = {axis: weight for axis, weight in weights.items() if weight}
    if not needed.keys() <= scores.keys():
        return Unread.MISSING_SCORE
    return sum(weight * scores[axis] for axis, weight in needed.items()) / sum(needed.values())


def _number(text: str) -> float | Unread:
    if _NUMBER.fullmatch(text.strip()) is None:
        return Unread.NOT_A_NUMBER if text.strip() else Unread.MISSING_SCORE
    value = float(text)
    return value if LOWEST <= value <= HIGHEST else Unread.OUT_OF_RANGE
