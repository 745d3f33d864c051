"""Uploaded prompts: how a prompt is written, what a set's file holds, and what is known of where it came from."""

import json
import re
import unicodedata
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from service.contracts.base import Contract

Format = Literal["text", "jsonl", "csv"]
"""Of an uploaded file: a prompt a line; JSON objects; a table with a column `prompt`."""
MOST_CHARACTERS = 2000
"""Of a prompt, as `contracts.base.Prompt` has it."""
MOST_METADATA_BYTES = 4096
"""Of what is said beside a prompt, as JSON."""
MOST_LINE_BYTES = 16 * 1024
"""Of a line of a set's file: the longest prompt, four bytes a character, and its metadata fit in."""
_CONTROL = re.compile(r"[\x00-\x08\x0e-\x1f\x7f-\x84\x86-\x9f]")
_SURROGATE = re.compile("[\ud800-\udfff]")


class Counts(Contract):
    """What an uploaded file held. Lines of a CSV are its rows, without the heading."""

    lines: int = Field(description="Lines read.")
    kept: int = Field(description="Different prompts, each kept once.")
    duplicates: int = Field(description="Lines left out: their prompt had come before.")
    blank: int = Field(description="Lines left out: there was nothing in them.")
    unusable: int = Field(description="Lines left out because `skip_bad` was said.")


class Split(Contract):
    """How an uploaded file became two sets that have no prompt in common."""

    part: Literal["train", "heldout"]
    heldout: float = Field(description="As it was asked for: a number of prompts, or a share below 1.")
    seed: int


class PromptLine(Contract):
    """A line of a set's file."""

    prompt: str
    metadata: dict[str, Any] | None = None

    def written(self) -> bytes:
        """The line, in UTF-8, with its end. Raises ValueError for metadata that UTF-8 or JSON has no words for."""
        said = {"prompt": self.prompt} | ({"metadata": self.metadata} if self.metadata else {})
        return _json(said).encode() + b"\n"


def metadata_bytes(metadata: dict[str, Any]) -> int:
    """How long metadata is as JSON in UTF-8. Raises ValueError for what that has no words for."""
    return len(_json(metadata).encode())


def normalised(text: str) -> str:
    """A prompt as sets keep it: Unicode's NFC, white space at its ends gone and elsewhere one space.

    Prompts that look alike are then the same text; text encoders see no difference. Empty where there was nothing.
    Raises ValueError for control characters, half a surrogate pair, and more than MOST_CHARACTERS.
    """
    if found := _CONTROL.search(text) or _SURROGATE.search(text):
        what = "control character" if _CONTROL.match(found[0]) else "half a surrogate pair"
        raise ValueError(f"character {found.start() + 1} is a {what}, U+{ord(found[0]):04X}; a prompt is plain text")
    prompt = " ".join(unicodedata.normalize("NFC", text).split())
    if len(prompt) > MOST_CHARACTERS:
        raise ValueError(f"the prompt has {len(prompt)} characters; allowed are 1 to {MOST_CHARACTERS}")
    return prompt


def read_prompts(file: Path) -> Iterator[str]:
    """The prompts of a set's file, in order. Raises ValueError for a line that is none."""
    with file.open("rb") as lines:
        for number, line in enumerate(lines, 1):
            try:
                yield json.loads(line)["prompt"]
            except (ValueError, KeyError, TypeError) as error:
                raise ValueError(f"{file}: line {number} is no line of a prompt set: {error}") from error


def _json(value: dict[str, Any]) -> str:
    return json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
