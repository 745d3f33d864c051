"""What a judge's answer says: a score for every test point, or a reason why it says none."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any


class Failure(StrEnum):
    """Why an answer has no scores."""

    NO_ANSWER = "no_answer"
    """There is none, or an empty one."""
    NO_SCORES = "no_scores"
    """No `<score>…</score>` is in it; it may have been cut off."""
    SEVERAL_SCORES = "several_scores"
    """It has several, which do not say the same."""
    NOT_A_LIST = "not_a_list"
    """What stands there is no list in square brackets."""
    NOT_BINARY = "not_binary"
    """The list has something other than the whole numbers 0 and 1."""
    WRONG_COUNT = "wrong_count"
    """The list is longer or shorter than the list of test points."""


@dataclass(frozen=True)
class Verdict:
    """The scores of one image's test points, 0 or 1 each in their order, or why there are none."""

    scores: tuple[int, ...] | None
    failure: Failure | None = None


_TAG = re.compile(r"<[ \t]{0,3}(/?)[ \t]{0,3}(score|analysis|think|thinking)[ \t]{0,3}>", re.IGNORECASE)
_END = re.compile(r"\s*</\w{1,20}>(?:\s|```|</\w{1,20}>)*")
_FENCE = re.compile(r"```[a-zA-Z]{0,10}\s(.*?)```", re.DOTALL)
_LIST = re.compile(r"\[([^\[\]]*)\]")
_BINARY = re.compile(r"\s*[01]\s*")


def read_answer(text: str | None, points: int) -> Verdict:
    """The scores in a judge's answer on `points` test points.

    Only what stands between `<score>` and `</score>` is read, so that no quote, fence or bracket of the analysis can
    spoil it. It must be one list of so many 0 and 1; anything else is a failure, and never guessed at.
    """
    if text is None or not text.strip():
        return Verdict(None, Failure.NO_ANSWER)
    found = {_unfenced(one) for one in _elements(text)}
    # A tag that the judge only talks about holds words; a list that is none, beside one that is, may be the true one.
    lists = {one for one in found if "[" in one} or found
    if not lists:
        return Verdict(None, Failure.NO_SCORES)
    verdicts = {_verdict(one, points) for one in lists}
    return verdicts.pop() if len(verdicts) == 1 else Verdict(None, Failure.SEVERAL_SCORES)


def check_scores(values: Any, points: int) -> Verdict:
    """The scores in a value that was read as JSON or as a literal, held to the same rules."""
    if not isinstance(values, Sequence) or isinstance(values, str | bytes):
        return Verdict(None, Failure.NOT_A_LIST)
    if not all(type(value) is int and value in (0, 1) for value in values):
        return Verdict(None, Failure.NOT_BINARY)
    if len(values) != points:
        return Verdict(None, Failure.WRONG_COUNT)
    return Verdict(tuple(values))


def _elements(text: str) -> list[str]:
    """What stands in every `<score>` that the judge gives: not those that its analysis only talks about.

    Where an analysis is never closed, it may have been cut off while it talked: then the answer's own end must follow.
    """
    given: list[str] = []
    talked_of: list[str] = []
    begun: int | None = None
    end = 0
    thinking = False
    for tag in _TAG.finditer(text):
        closing, name = bool(tag[1]), tag[2].lower()
        if name != "score":
            begun, thinking = None, not closing
            if closing:
                talked_of.clear()
        elif not closing:
            begun = tag.end()
        elif begun is not None:
            (talked_of if thinking else given).append(text[begun : tag.start()])
            begun, end = None, tag.end()
    return given + talked_of if _END.fullmatch(text, end) else given


def _unfenced(text: str) -> str:
    fenced = _FENCE.fullmatch(text.strip())
    return (fenced[1] if fenced else text).strip()


def _verdict(text: str, points: int) -> Verdict:
    whole = _LIST.fullmatch(text)
    if whole is None:
        return Verdict(None, Failure.NOT_A_LIST)
    inside = whole[1].strip()
    items = inside.removesuffix(",").split(",") if inside else []
    if not all(_BINARY.fullmatch(item) for item in items):
        return Verdict(None, Failure.NOT_BINARY)
    return check_scores([int(item) for item in items], points)
