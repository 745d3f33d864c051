"""UnifiedReward: a vision-language model that gives scores in words, behind an OpenAI-compatible server."""

import hashlib
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import yaml
from PIL import Image

from service.contracts.catalog import RewardEntry
from worker.engine.remote import chat
from worker.engine.rewards.base import Answers
from worker.engine.rewards.remote import FIRST_WAIT, ServerReward, Unreadable
from worker.engine.rewards.unified_reward_parser import Unread, axes_mean, final_score

TEMPLATES = Path(__file__).with_name("unified_reward.yaml")
"""What the models were trained to be asked, by form, with its source."""


class UnifiedReward(ServerReward):
    """A value of 1 to 5: the final score of the first models, or the weighted mean of 2.0's axes."""

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
            raise Unreadable(value, f"{value.replace('_', ' ')} in the answer {(answer.text or '')[-300:]!r}")
        return Answers((value,), Counter())

    def _value(self, answer: chat.Completion) -> float | Unread:
        if answer.truncated:
            return Unread.TRUNCATED
        text = answer.text or ""
        return final_score(text) if self.entry.form == "final_score" else axes_mean(text, self.entry.axes)


def template(form: str) -> str:
    """The words of that form, with `{prompt}` where the caption goes."""
    text: str = yaml.safe_load(TEMPLATES.read_text(encoding="utf-8"))["templates"][form]
    return text
