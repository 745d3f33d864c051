"""Parse, normalize and split uploaded prompt files.

Memory use is bounded by the longest line plus a 16-byte hash for each distinct prompt.
"""

import csv
import hashlib
import heapq
import json
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

from service.contracts.prompts import (
    INVISIBLE,
    MAX_METADATA_BYTES,
    Counts,
    Format,
    PromptLine,
    metadata_bytes,
    normalized,
    read_prompts,
)
from service.http.errors import FieldError, Invalid, invalid

MAX_INPUT_BYTES = 128 * 1024
"""Maximum size of a line or CSV row: enough for the longest prompt, however it is escaped, and its metadata."""
MAX_COLUMNS = 64
MAX_ERRORS = 20
"""Maximum number of bad lines in a response. Reading stops there unless bad lines are skipped."""


class NotText(Exception):
    """The file is not UTF-8 text, so none of its lines can be used."""


def normalize_file(
    source: Path, target: Path, format: Format, max_prompts: int, skip_bad: bool
) -> tuple[Counts, list[FieldError]]:
    """Write each distinct prompt in `source` to `target`.

    Returns the counts, and the errors of the first skipped lines. Raises Invalid if the file cannot be parsed, if it
    contains too many prompts or none, or, unless `skip_bad` is set, if it contains bad lines.
    """
    counts: Counter[str] = Counter()
    seen: set[bytes] = set()
    errors: list[FieldError] = []
    with source.open("rb") as file, target.open("wb") as output:
        try:
            for number, parse in _PARSERS[format](file):
                counts["lines"] += 1
                try:
                    line = parse()
                except (ValueError, RecursionError) as error:
                    counts["unusable"] += 1
                    if len(errors) < MAX_ERRORS:
                        errors.append(_error(number, str(error)[:300], "bad_line"))
                    if len(errors) == MAX_ERRORS and not skip_bad:
                        raise Invalid(errors) from error
                    continue
                digest = hashlib.blake2b(line.prompt.encode(), digest_size=16).digest()
                if not line.prompt:
                    counts["blank"] += 1
                elif digest in seen:
                    counts["duplicates"] += 1
                elif len(seen) == max_prompts:
                    msg = f"exceeds the maximum of {max_prompts} distinct prompts"
                    raise Invalid([_error(number, msg, "too_many_prompts")])
                else:
                    seen.add(digest)
                    output.write(line.written())
        except NotText as error:
            raise invalid(["body"], str(error), "not_text") from error
    if errors and not skip_bad:
        raise Invalid(errors)
    if not seen:
        found = f"{counts['lines']} lines, {counts['blank']} of them blank, {counts['unusable']} unusable"
        raise invalid(["body"], f"The file has no prompts: {found}", "no_prompts")
    kinds = ("lines", "duplicates", "blank", "unusable")
    return Counts(kept=len(seen), **{kind: counts[kind] for kind in kinds}), errors


def split(source: Path, train: Path, heldout: Path, amount: float, seed: int) -> tuple[int, int]:
    """Write each line of a normalized file to `train` or `heldout`, and return the number of lines in each.

    A prompt is assigned by its hash, which depends on its text and the seed, but not on the order of the lines. If
    `amount` is below 1, it is the share of held-out prompts: each prompt is assigned independently of the others, so
    extending the file never moves a prompt. Otherwise `amount` is the number of held-out prompts: those with the
    smallest hashes. Raises Invalid if one of the parts would be empty.
    """
    if amount < 1:
        bound = int(amount * 2**64)
    else:
        smallest = heapq.nsmallest(int(amount) + 1, (_hash(prompt, seed) for prompt in read_prompts(source)))
        bound = smallest[-1] if len(smallest) > amount else 2**64
    counts = [0, 0]
    with source.open("rb") as lines, train.open("wb") as train_file, heldout.open("wb") as heldout_file:
        for line in lines:
            held_out = _hash(json.loads(line)["prompt"], seed) < bound
            (heldout_file if held_out else train_file).write(line)
            counts[held_out] += 1
    if not all(counts):
        left = f"{counts[0]} training prompts and {counts[1]} held-out prompts"
        msg = f"Holding out {amount:g} of {sum(counts)} prompts leaves {left}"
        raise invalid(["query", "heldout"], f"{msg}; both sets need at least one prompt", "empty_part")
    return counts[0], counts[1]


def _hash(prompt: str, seed: int) -> int:
    """Return a 64-bit hash of a prompt and a seed."""
    return int.from_bytes(hashlib.blake2b(f"{seed}\n{prompt}".encode(), digest_size=8).digest(), "big")


def _error(number: int, msg: str, type: str) -> FieldError:
    return FieldError(loc=["body", number], msg=f"line {number}: {msg}", type=type)


Parse = Callable[[], PromptLine]
"""A function that parses one line. Raises ValueError or RecursionError if the line is bad."""


def _text(file: BinaryIO) -> Iterator[tuple[int, Parse]]:
    def parse(text: str) -> PromptLine:
        if "\r" in text:
            raise ValueError("carriage return inside the line; lines must end in LF or CRLF")
        return _prompt_line(text)

    return _parse_lines(file, parse)


def _jsonl(file: BinaryIO) -> Iterator[tuple[int, Parse]]:
    def parse(text: str) -> PromptLine:
        if not text.strip():
            return PromptLine(prompt="")
        try:
            value = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise ValueError(f"invalid JSON: {str(error)[:100]}") from error
        if not isinstance(value, dict) or not isinstance(value.get("prompt"), str):
            raise ValueError('the line must be a JSON object with a string "prompt"')
        if unknown := sorted(value.keys() - {"prompt", "metadata"}):
            raise ValueError(f'unknown field {unknown[0][:100]!r}; expected only "prompt" and "metadata"')
        if not isinstance(value.get("metadata"), dict | None):
            raise ValueError('"metadata" must be an object')
        return _prompt_line(value["prompt"], value.get("metadata"))

    return _parse_lines(file, parse)


def _parse_lines(file: BinaryIO, parse: Callable[[str], PromptLine]) -> Iterator[tuple[int, Parse]]:
    for number, text in _lines(file):

        def parse_line(text: str | None = text) -> PromptLine:
            if text is None:
                raise ValueError(f"exceeds the maximum of {MAX_INPUT_BYTES} bytes")
            return parse(text)

        yield number, parse_line


def _csv(file: BinaryIO) -> Iterator[tuple[int, Parse]]:
    rows = _csv_rows(file)
    _, header = next(rows, (1, []))
    names = [name.strip() for name in header]
    if names.count("prompt") != 1:
        found = ", ".join(repr(name[:50]) for name in names[:10]) or "none"
        raise Invalid([_error(1, f"a CSV needs exactly one column `prompt`; found: {found}", "no_prompt_column")])
    if len(names) > MAX_COLUMNS:
        raise Invalid([_error(1, f"{len(names)} columns; the maximum is {MAX_COLUMNS}", "too_many_columns")])
    if len(set(names)) != len(names):
        raise Invalid([_error(1, "two columns have the same name", "duplicate_column")])
    for number, row in rows:

        def parse_row(row: list[str] = row) -> PromptLine:
            if len(row) not in (0, len(names)):
                raise ValueError(f"the row has {len(row)} cells; the header has {len(names)}")
            cells = dict(zip(names, row, strict=False))
            prompt = cells.pop("prompt", "")
            return _prompt_line(prompt, {name: cell for name, cell in cells.items() if cell})

        yield number, parse_row


def _csv_rows(file: BinaryIO) -> Iterator[tuple[int, list[str]]]:
    """Yield each row with the number of its first line.

    Raises Invalid on a syntax error because the start of the next row is then unknown.
    """
    size = 0

    def lines() -> Iterator[str]:
        nonlocal size
        for _, text in _lines(file):
            size += MAX_INPUT_BYTES + 1 if text is None else len(text)
            if text is None or size > MAX_INPUT_BYTES:
                raise csv.Error(f"row exceeds the maximum of {MAX_INPUT_BYTES} bytes; is a quotation mark missing?")
            yield f"{text}\n"

    reader = csv.reader(lines(), strict=True)
    while True:
        size, first = 0, reader.line_num + 1
        try:
            row = next(reader, None)
        except csv.Error as error:
            raise Invalid([_error(first, f"invalid CSV: {error}", "bad_csv")]) from error
        if row is None:
            return
        yield first, row


_PARSERS: dict[Format, Callable[[BinaryIO], Iterator[tuple[int, Parse]]]] = {
    "text": _text,
    "jsonl": _jsonl,
    "csv": _csv,
}


def _prompt_line(text: str, metadata: dict[str, Any] | None = None) -> PromptLine:
    """Return the normalized prompt with its metadata. Raises ValueError or RecursionError if either is invalid."""
    prompt = normalized(text)
    size = metadata_bytes(metadata) if metadata else 0
    if size > MAX_METADATA_BYTES:
        raise ValueError(f"the metadata has {size} bytes as JSON; the maximum is {MAX_METADATA_BYTES}")
    return PromptLine(prompt=prompt, metadata=metadata or None)


def _lines(file: BinaryIO) -> Iterator[tuple[int, str | None]]:
    """Yield each line number with the line, or None if it exceeds MAX_INPUT_BYTES.

    Lines have no line ending and no INVISIBLE characters at their ends. Raises NotText if a line contains a NUL byte or
    invalid UTF-8.
    """
    number = 0
    while line := file.readline(MAX_INPUT_BYTES + 2):
        number += 1
        too_long = len(line) > MAX_INPUT_BYTES and not line.endswith(b"\n")
        if b"\x00" in line:
            raise NotText(f"line {number}: byte {line.index(0) + 1} is NUL; send a text file in UTF-8")
        if too_long:
            while (part := file.readline(MAX_INPUT_BYTES)) and not part.endswith(b"\n"):
                if b"\x00" in part:
                    raise NotText(f"line {number}: NUL byte; send a text file in UTF-8")
            yield number, None
            continue
        try:
            yield number, line.decode("utf-8").removesuffix("\n").removesuffix("\r").strip(INVISIBLE)
        except UnicodeDecodeError as error:
            byte = f"byte {error.start + 1} is 0x{line[error.start]:02x}"
            raise NotText(f"line {number}: {byte}, which is invalid UTF-8; save the file as UTF-8") from error
