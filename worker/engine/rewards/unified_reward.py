"""UnifiedReward: a vision-language model behind an OpenAI-compatible server that answers with scores as text.

An answer that does not follow the requested format has no value. A score is a decimal number from 1 to 5 at the end of
its line.
"""

import hashlib
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from enum import StrEnum
from pathlib import Path

import yaml
from PIL import Image

from service.contracts.benchmarks.judge_answers import without_thinking
from service.contracts.catalog import Axis, RewardEntry
from worker.engine.remote import chat
from worker.engine.rewards.base import Answers
from worker.engine.rewards.remote_base import FIRST_WAIT, ServerReward, Unreadable

TEMPLATES = Path(__file__).with_name("unified_reward.yaml")
"""YAML file with the prompts that the models were trained on, by form."""


LOWEST, HIGHEST = 1.0, 5.0
_FINAL = re.compile(r"Final Score:[^\S\n]*(.*)", re.DOTALL)
_AXIS = re.compile(r"(\w+) Score \(1-5\):[^\S\n]*(.*)")
_NUMBER = re.compile(r"\d{1,3}(?:\.\d+)?", re.ASCII)


class Unread(StrEnum):
    """Reasons why an answer contains no value. Failures are counted by reason."""

    NO_WORDS = "no_words"
    TRUNCATED = "truncated"
    MISSING_SCORE = "missing_score"
    REPEATED_SCORE = "repeated_score"
    NOT_A_NUMBER = "not_a_number"
    OUT_OF_RANGE = "out_of_range"
    EXTRA_TEXT = "extra_text"


def final_score(text: str) -> float | Unread:
    """Read the number after "Final Score:", which must occur once and end the answer. Other text may precede it.

    Returns the reason if the answer contains no valid score.
    """
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
    """Compute the weighted mean of the axis scores.

    Each line must read "Axis Score (1-5): number", with each axis at most once. Returns the reason if the answer
    contains no valid scores for the axes with nonzero weight.
    """
    if not text.strip():
        return Unread.NO_WORDS
    scores: dict[str, float] = {}
    for line in filter(str.strip, text.splitlines()):
        found = _AXIS.fullmatch(line.strip())
        axis = found[1].lower() if found else ""
        if found is None or found[1] != axis.capitalize() or axis not in ("alignment", "coherence", "style"):
            # An answer that contains no score at all is a refusal, not extra text.
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


class UnifiedReward(ServerReward):
    """A score from 1 to 5: the final score of the first models, or the weighted mean of UnifiedReward 2.0's axes."""

    def __init__(self, entry: RewardEntry, first_wait: float = FIRST_WAIT) -> None:
        super().__init__(entry, first_wait)
        self._template = template(entry.form)

    def identity(self) -> dict[str, str | None]:
        weights = ", ".join(f"{axis} {weight:g}" for axis, weight in self.entry.axes.items())
        return {
            "server": self.server,
            "model": self.entry.model,
            "form": self.entry.form,
            "axes": weights if self.entry.form == "axes" else None,
            "template_sha256": hashlib.sha256(self._template.encode()).hexdigest(),
        }

    def ask(self, images: Sequence[Image.Image], prompts: Sequence[str]) -> Answers:
        (image,), (prompt,) = images, prompts
        text = self._template.replace("{prompt}", prompt)
        answer = chat.completion(self._server, self._server.post(chat.PATH, chat.question(self.entry, image, text)))
        value = self._value(answer)
        if isinstance(value, Unread):
            raise Unreadable(value, f"{value.replace('_', ' ')} in the response {(answer.text or '')[-300:]!r}")
        return Answers((value,), Counter())

    def _value(self, answer: chat.Completion) -> float | Unread:
        if answer.truncated:
            return Unread.TRUNCATED
        text = without_thinking(answer.text or "")
        return final_score(text) if self.entry.form == "final_score" else axes_mean(text, self.entry.axes)


def template(form: str) -> str:
    """Return the prompt template for `form`, with `{prompt}` as the placeholder for the caption."""
    text: str = yaml.safe_load(TEMPLATES.read_text(encoding="utf-8"))["templates"][form]
    return text
