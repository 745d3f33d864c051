"""Prompt sets: prompt normalization, the prompt set file, and metadata of the upload."""

import json
import re
import unicodedata
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from service.contracts.base import CONTROL, Contract

Format = Literal["text", "jsonl", "csv"]
"""Format of an uploaded file: one prompt per line, one JSON object per line, or a table with a `prompt` column."""
MAX_CHARACTERS = 2000
"""Maximum prompt length in characters, the same as for `contracts.base.Prompt`."""
MAX_METADATA_BYTES = 4096
"""Maximum size of a prompt's metadata as JSON, in bytes."""
MAX_LINE_BYTES = 16 * 1024
"""Maximum size of a line in a prompt set file: room for the longest prompt, at 4 bytes per character, and metadata."""
INVISIBLE = "\u200b\u200c\u200d\u200e\u200f\u2060\ufeff"
"""Characters without width that have no effect at the ends of a text, such as byte order marks and joiners."""
_CONTROL = re.compile(f"[{CONTROL}]")
_SURROGATE = re.compile("[\ud800-\udfff]")


class Counts(Contract):
    """Line counts of an uploaded file. For CSV, lines are the rows after the header."""

    lines: int = Field(description="Number of lines read.")
    kept: int = Field(description="Number of distinct prompts.")
    duplicates: int = Field(description="Number of omitted lines that repeat an earlier prompt.")
    blank: int = Field(description="Number of omitted blank lines.")
    unusable: int = Field(description="Number of invalid lines, which are omitted if `skip_bad` is set.")


class Split(Contract):
    """How an uploaded file was split into two disjoint sets."""

    part: Literal["train", "heldout"]
    heldout: float = Field(description="The requested number of held-out prompts, or their share if below 1.")
    seed: int


class PromptLine(Contract):
    """One line in a prompt set file."""

    prompt: str
    metadata: dict[str, Any] | None = None

    def written(self) -> bytes:
        """Return the line as UTF-8 JSON with a line feed.

        Raises ValueError if the metadata cannot be represented in UTF-8 or JSON.
        """
        line = {"prompt": self.prompt} | ({"metadata": self.metadata} if self.metadata else {})
        return _json(line).encode() + b"\n"


def metadata_bytes(metadata: dict[str, Any]) -> int:
    """Return the size of the metadata as UTF-8 JSON. Raises ValueError if it cannot be represented in UTF-8 or JSON."""
    return len(_json(metadata).encode())


def normalized(text: str) -> str:
    """Normalize a prompt to Unicode NFC with single spaces; blank text becomes empty.

    Spaces and INVISIBLE characters at both ends are removed. Inside, INVISIBLE characters have an effect, such as the
    joiners of an emoji, and are kept.

    Prompts that differ only in these respects look the same and are treated as duplicates. Raises ValueError if the
    text contains a control character or an unpaired surrogate, or exceeds MAX_CHARACTERS.
    """
    if found := _CONTROL.search(text) or _SURROGATE.search(text):
        kind = "a control character" if _CONTROL.match(found[0]) else "an unpaired surrogate"
        raise ValueError(f"character {found.start() + 1} is {kind}, U+{ord(found[0]):04X}; a prompt must be plain text")
    prompt = " ".join(unicodedata.normalize("NFC", text).split()).strip(f" {INVISIBLE}")
    if len(prompt) > MAX_CHARACTERS:
        raise ValueError(f"the prompt has {len(prompt)} characters; allowed: 1 to {MAX_CHARACTERS}")
    return prompt


def read_prompts(file: Path) -> Iterator[str]:
    """Yield the prompts in a prompt set file, in order. Raises ValueError if a line is invalid."""
    with file.open("rb") as lines:
        for number, line in enumerate(lines, 1):
            try:
                yield json.loads(line)["prompt"]
            except (ValueError, KeyError, TypeError) as error:
                raise ValueError(f"{file}: line {number} is not valid in a prompt set: {error}") from error


def _json(value: dict[str, Any]) -> str:
    return json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
