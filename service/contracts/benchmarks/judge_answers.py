"""Parsing of judge answers: one score per test point, or the reason why there are no scores."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any


class Failure(StrEnum):
    """Reason why an answer has no scores."""

    NO_ANSWER = "no_answer"
    """There is no answer, or it is empty."""
    NO_SCORES = "no_scores"
    """The answer has no `<score>…</score>`; it may be cut off."""
    SEVERAL_SCORES = "several_scores"
    """The answer has several `<score>` elements that differ."""
    NOT_A_LIST = "not_a_list"
    """The content of `<score>` is not a list in square brackets."""
    NOT_BINARY = "not_binary"
    """The list has items other than the integers 0 and 1."""
    WRONG_COUNT = "wrong_count"
    """The number of items in the list differs from the number of test points."""


@dataclass(frozen=True)
class Verdict:
    """The scores of an image's test points in order, each 0 or 1, or the reason why there are none."""

    scores: tuple[int, ...] | None
    failure: Failure | None = None


_TAG = re.compile(r"<[ \t]{0,3}(/?)[ \t]{0,3}(score|analysis)[ \t]{0,3}>", re.IGNORECASE)
_THINK = re.compile(r"<[ \t]{0,3}(/?)[ \t]{0,3}think(?:ing)?[ \t]{0,3}>", re.IGNORECASE)
_END = re.compile(r"\s*</\w{1,20}>(?:\s|```|</\w{1,20}>)*")
_FENCE = re.compile(r"```[a-zA-Z]{0,10}\s(.*?)```", re.DOTALL)
_LIST = re.compile(r"\[([^\[\]]*)\]")
_BINARY = re.compile(r"\s*[01]\s*")


def without_thinking(text: str) -> str:
    """Return the answer of a reasoning model without its thinking.

    Thinking is the content of `<think>…</think>`, the text before a `</think>` that was never opened, because some chat
    templates open it in the prompt, and the text after a `<think>` that is never closed.
    """
    kept: list[str] = []
    start, thinking = 0, False
    for tag in _THINK.finditer(text):
        if not tag[1]:
            if not thinking:
                kept.append(text[start : tag.start()])
            thinking = True
            continue
        if not thinking:
            kept.clear()
        start, thinking = tag.end(), False
    return "".join(kept if thinking else [*kept, text[start:]])


def read_answer(text: str | None, points: int, truncated: bool = False) -> Verdict:
    """Parse the scores in a judge's answer, one for each of `points` test points.

    Only the content of `<score>` is parsed, so that quotes, fences and brackets in the analysis have no effect. It must
    be a list of exactly `points` items, each 0 or 1. Anything else is a failure; scores are never guessed. If the model
    was interrupted (`truncated`), the scores must be the end of the text, because earlier ones may be a draft.
    """
    if text is None or not text.strip():
        return Verdict(None, Failure.NO_ANSWER)
    found = {_unfenced(content) for content in _score_elements(without_thinking(text), truncated)}
    # A tag that is only mentioned in the analysis contains prose. An invalid list may be the intended one, so it is
    # used.
    lists = {content for content in found if "[" in content} or found
    if not lists:
        return Verdict(None, Failure.NO_SCORES)
    verdicts = {_verdict(content, points) for content in lists}
    return verdicts.pop() if len(verdicts) == 1 else Verdict(None, Failure.SEVERAL_SCORES)


def check_scores(values: Any, points: int) -> Verdict:
    """Validate scores from JSON or a Python literal: a list of exactly `points` items, each 0 or 1."""
    if not isinstance(values, Sequence) or isinstance(values, str | bytes):
        return Verdict(None, Failure.NOT_A_LIST)
    if not all(type(value) is int and value in (0, 1) for value in values):
        return Verdict(None, Failure.NOT_BINARY)
    if len(values) != points:
        return Verdict(None, Failure.WRONG_COUNT)
    return Verdict(tuple(values))


def _score_elements(text: str, truncated: bool) -> list[str]:
    """Return the contents of all `<score>` elements, except those mentioned within an analysis.

    If an analysis is never closed, the answer may have been cut off inside it. The elements in it are then returned
    only if the last one is followed by the end of the answer. Without this end, a truncated answer has no elements.
    """
    final: list[str] = []
    mentioned: list[str] = []
    start: int | None = None
    end = 0
    analyzing = False
    for tag in _TAG.finditer(text):
        closing, name = bool(tag[1]), tag[2].lower()
        if name != "score":
            start, analyzing = None, not closing
            if closing:
                mentioned.clear()
        elif not closing:
            start = tag.end()
        elif start is not None:
            (mentioned if analyzing else final).append(text[start : tag.start()])
            start, end = None, tag.end()
    if truncated and text[end:].strip() and not _END.fullmatch(text, end):
        return []
    return final + mentioned if _END.fullmatch(text, end) else final


def _unfenced(text: str) -> str:
    fenced = _FENCE.fullmatch(text.strip())
    return (fenced[1] if fenced else text).strip()


def _verdict(text: str, points: int) -> Verdict:
    match = _LIST.fullmatch(text)
    if match is None:
        return Verdict(None, Failure.NOT_A_LIST)
    inside = match[1].strip()
    items = inside.removesuffix(",").split(",") if inside else []
    if not all(_BINARY.fullmatch(item) for item in items):
        return Verdict(None, Failure.NOT_BINARY)
    return check_scores([int(item) for item in items], points)
