"""Custom rewards behind a small JSON protocol. docs/reference/rewards.md describes the protocol for server authors."""

import base64
import json
import math
from collections import Counter
from collections.abc import Sequence
from typing import Any

import torch
from PIL import Image

from service.contracts.catalog import RewardEntry
from worker.engine.remote.chat import png_file
from worker.engine.remote.http_client import RequestFailed
from worker.engine.rewards.base import Answers
from worker.engine.rewards.remote_base import FIRST_WAIT, ServerReward

VERSION = 1
"""Version of the protocol."""
_WIDEST = torch.finfo(torch.float32).max


class HttpReward(ServerReward):
    """Sends prompts and images to `POST URL/score`. The response has a number or null for each image."""

    def __init__(self, entry: RewardEntry, first_wait: float = FIRST_WAIT) -> None:
        super().__init__(entry, first_wait)
        self.batch_size = entry.batch_size

    def identity(self) -> dict[str, str | None]:
        return {"server": self.server, "model": self.entry.model, "protocol": str(VERSION)}

    def ask(self, images: Sequence[Image.Image], prompts: Sequence[str]) -> Answers:
        encoded = [base64.b64encode(png_file(image)).decode() for image in images]
        request = {"version": VERSION, "model": self.entry.model, "prompts": list(prompts), "images": encoded}
        data = self._server.post("score", json.dumps(request, ensure_ascii=False).encode())
        try:
            values = json.loads(data)["values"]
        except (ValueError, LookupError, TypeError, RecursionError) as error:
            raise RequestFailed(f"the response has no `values`: {self._server.excerpt(data)}") from error
        if not isinstance(values, list) or len(values) != len(prompts):
            said = f"{len(values)} values" if isinstance(values, list) else "a `values` field that is not a list"
            raise RequestFailed(f"the response has {said} for {len(prompts)} images: {self._server.excerpt(data)}")
        return _read(values)


def _read(values: Sequence[Any]) -> Answers:
    numbers, missing, cause = [math.nan] * len(values), Counter[str](), ""
    for place, value in enumerate(values):
        if isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= _WIDEST:
            numbers[place] = float(value)
        else:  # including NaN, for which every comparison is false
            kind = "null" if value is None else "not_a_number"
            missing[kind] += 1
            cause = "the server returned null" if value is None else f"{str(value)[:80]!r} is not a finite number"
    return Answers(tuple(numbers), missing, cause)
