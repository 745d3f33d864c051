"""Prompt sets: normalization of prompts, the file of a set, and the record of its upload."""

import json
import re
import unicodedata
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from service.contracts.base import Contract

Format = Literal["text", "jsonl", "csv"]
"""Format of an uploaded file: one prompt per line; one JSON object per line; a table with a column `prompt`."""
MAX_CHARACTERS = 2000
"""Maximum length of a prompt, as in `contracts.base.Prompt`."""
MAX_METADATA_BYTES = 4096
"""Maximum size of the metadata of a prompt, as JSON."""
MAX_LINE_BYTES = 16 * 1024
"""Maximum length of a line of a set's file: the longest prompt, with four bytes per character, and its metadata."""
_CONTROL = re.compile(r"[\x00-\x08\x0e-\x1f\x7f-\x84\x86-\x9f]")
_SURROGATE = re.compile("[\ud800-\udfff]")


class Counts(Contract):
    """Line counts of an uploaded file. Lines of a CSV are its rows without the heading."""

    lines: int = Field(description="Lines read.")
    kept: int = Field(description="Distinct prompts.")
    duplicates: int = Field(description="Lines with an earlier prompt, omitted.")
    blank: int = Field(description="Blank lines, omitted.")
    unusable: int = Field(description="Invalid lines, omitted because of `skip_bad`.")


class Split(Contract):
    """The split of an uploaded file into two disjoint sets."""

    part: Literal["train", "heldout"]
    heldout: float = Field(description="The requested number of held-out prompts, or their share if below 1.")
    seed: int


class PromptLine(Contract):
    """A line of a set's file."""

    prompt: str
    metadata: dict[str, Any] | None = None

    def written(self) -> bytes:
        """The line in UTF-8, with a line feed. Raises ValueError for metadata that UTF-8 or JSON cannot represent."""
        line = {"prompt": self.prompt} | ({"metadata": self.metadata} if self.metadata else {})
        return _json(line).encode() + b"\n"


def metadata_bytes(metadata: dict[str, Any]) -> int:
    """Size of metadata as JSON in UTF-8. Raises ValueError if that cannot represent it."""
    return len(_json(metadata).encode())


def normalized(text: str) -> str:
    """The canonical form of a prompt: Unicode NFC, trimmed, with single spaces; empty for a blank text.

    Prompts that look the same are then equal; text encoders do not distinguish them. Raises ValueError for control
    characters, unpaired surrogates, and more than MAX_CHARACTERS.
    """
    if found := _CONTROL.search(text) or _SURROGATE.search(text):
        kind = "a control character" if _CONTROL.match(found[0]) else "an unpaired surrogate"
        raise ValueError(f"character {found.start() + 1} is {kind}, U+{ord(found[0]):04X}; a prompt must be plain text")
    prompt = " ".join(unicodedata.normalize("NFC", text).split())
    if len(prompt) > MAX_CHARACTERS:
        raise ValueError(f"the prompt has {len(prompt)} characters; allowed are 1 to {MAX_CHARACTERS}")
    return prompt


def read_prompts(file: Path) -> Iterator[str]:
    """The prompts of a set's file, in order. Raises ValueError for an invalid line."""
    with file.open("rb") as lines:
        for number, line in enumerate(lines, 1):
            try:
                yield json.loads(line)["prompt"]
            except (ValueError, KeyError, TypeError) as error:
                raise ValueError(f"{file}: line {number} is not valid in a prompt set: {error}") from error


def _json(value: dict[str, Any]) -> str:
    return json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
