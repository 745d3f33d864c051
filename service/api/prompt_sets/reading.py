"""Reading an uploaded file line by line: what a line says becomes a prompt, or is told with its number.

Memory is bounded by the longest line, and 16 bytes for each different prompt.
"""

import csv
import hashlib
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from service.contracts.prompts import (
    MAX_METADATA_BYTES,
    Counts,
    Format,
    PromptLine,
    metadata_bytes,
    normalised,
)
from service.http.errors import FieldError, Invalid, invalid

MOST_INPUT_BYTES = 128 * 1024
"""Of a line, or of a row of a CSV: the longest prompt fits in however it is escaped, with its metadata."""
MOST_PROBLEMS = 20
"""Bad lines that an answer tells of; the rest of the file is not read."""


class NotText(Exception):
    """The file is not UTF-8 text: no line of it can be trusted."""


class Line(NamedTuple):
    """What a line says, or what is wrong with it."""

    number: int
    said: PromptLine | None = None
    problem: str = ""


@dataclass
class Reader:
    """Turns an uploaded file into a set's file."""

    format: Format
    most_prompts: int
    skip_bad: bool
    problems: list[FieldError] = field(default_factory=list)
    """Of the lines left out, the first MOST_PROBLEMS."""
    _lines: int = 0
    _blank: int = 0
    _duplicates: int = 0
    _unusable: int = 0
    _seen: set[bytes] = field(default_factory=set)

    def read(self, source: Path, target: Path) -> Counts:
        """Write each prompt of `source` once to `target`. Raises Invalid, naming bad lines."""
        with source.open("rb") as file, target.open("wb") as writing:
            try:
                for line in _READERS[self.format](file):
                    self._take(line, writing)
            except NotText as error:
                raise invalid(["body"], str(error), "not_text") from error
        if self.problems and not self.skip_bad:
            raise Invalid(self.problems)
        if not self._seen:
            found = f"{self._lines} lines, {self._blank} of them blank, {self._unusable} unusable"
            raise invalid(["body"], f"the file has no prompts: {found}", "no_prompts")
        return Counts(
            lines=self._lines,
            kept=len(self._seen),
            duplicates=self._duplicates,
            blank=self._blank,
            unusable=self._unusable,
        )

    def _take(self, line: Line, writing: BinaryIO) -> None:
        self._lines += 1
        if line.said is None:
            self._leave_out(line)
        elif not line.said.prompt:
            self._blank += 1
        elif (digest := hashlib.blake2b(line.said.prompt.encode(), digest_size=16).digest()) in self._seen:
            self._duplicates += 1
        else:
            self._seen.add(digest)
            if len(self._seen) > self.most_prompts:
                msg = f"line {line.number}: there are more than {self.most_prompts} different prompts, the most allowed"
                raise invalid(["body", line.number], msg, "too_many_prompts")
            writing.write(line.said.written())

    def _leave_out(self, line: Line) -> None:
        self._unusable += 1
        if len(self.problems) < MOST_PROBLEMS:
            msg = f"line {line.number}: {line.problem}"
            self.problems.append(FieldError(loc=["body", line.number], msg=msg, type="bad_line"))
        if len(self.problems) == MOST_PROBLEMS and not self.skip_bad:
            raise Invalid(self.problems)


def _text(file: BinaryIO) -> Iterator[Line]:
    for number, text in _lines(file):
        if text is None:
            yield _too_long(number)
        elif "\r" in text:
            yield Line(number, problem="there is a carriage return inside it; lines end in LF or CRLF")
        else:
            yield _line(number, text)


def _jsonl(file: BinaryIO) -> Iterator[Line]:
    for number, text in _lines(file):
        if text is None:
            yield _too_long(number)
        elif not text.strip():
            yield Line(number, PromptLine(prompt=""))
        else:
            yield _object(number, text)


def _object(number: int, text: str) -> Line:
    try:
        said = json.loads(text)
    except (ValueError, RecursionError) as error:
        return Line(number, problem=f"it is no JSON: {str(error)[:100]}")
    if not isinstance(said, dict) or not isinstance(said.get("prompt"), str):
        return Line(number, problem='it is no object with a text under "prompt"')
    if unknown := sorted(said.keys() - {"prompt", "metadata"}):
        return Line(number, problem=f'unknown field {unknown[0][:100]!r}; allowed are "prompt" and "metadata"')
    metadata = said.get("metadata")
    if metadata is not None and not isinstance(metadata, dict):
        return Line(number, problem='"metadata" is no object')
    return _line(number, said["prompt"], metadata)


def _csv(file: BinaryIO) -> Iterator[Line]:
    source = _Rows(file)
    rows = csv.reader(source, strict=True)
    heading = _row(source, rows)
    names = [name.strip() for name in heading or []]
    if names.count("prompt") != 1:
        found = ", ".join(repr(name[:50]) for name in names[:10]) or "none"
        raise invalid(
            ["body", 1], f"line 1: a CSV has one column `prompt`; its columns are {found}", "no_prompt_column"
        )
    if len(set(names)) != len(names):
        raise invalid(["body", 1], "line 1: two columns have the same name", "duplicate_column")
    while (row := _row(source, rows)) is not None:
        number = source.first
        if len(row) not in (0, len(names)):
            yield Line(number, problem=f"it has {len(row)} cells; the heading has {len(names)}")
            continue
        cells = dict(zip(names, row, strict=False))
        prompt = cells.pop("prompt", "")
        yield _line(number, prompt, {name: cell for name, cell in cells.items() if cell})


def _row(source: "_Rows", rows: Iterator[list[str]]) -> list[str] | None:
    """The next row; None at the end. What cannot be read ends everything: where the next row begins is unknown."""
    source.begin()
    try:
        return next(rows, None)
    except csv.Error as error:
        msg = f"line {source.first}: this row cannot be read as CSV: {error}"
        raise invalid(["body", source.first], msg, "bad_csv") from error


class _Rows:
    """Lines for the CSV reader, which may take several for a row, but not any number."""

    def __init__(self, file: BinaryIO) -> None:
        self._lines = _lines(file)
        self._size, self._number, self.first = 0, 0, 1

    def begin(self) -> None:
        """A row begins with the next line."""
        self._size, self.first = 0, self._number + 1

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        self._number, text = next(self._lines)
        self._size += MOST_INPUT_BYTES if text is None else len(text)
        if text is None or self._size > MOST_INPUT_BYTES:
            raise csv.Error(f"it is longer than {MOST_INPUT_BYTES} bytes; is a quotation mark missing?")
        return f"{text}\n"


_READERS: dict[Format, Callable[[BinaryIO], Iterator[Line]]] = {"text": _text, "jsonl": _jsonl, "csv": _csv}


def _line(number: int, text: str, metadata: dict[str, Any] | None = None) -> Line:
    """What is kept of a prompt and its metadata, or what is wrong with them."""
    try:
        prompt = normalised(text)
        size = metadata_bytes(metadata) if metadata else 0
    except (ValueError, RecursionError) as error:
        return Line(number, problem=str(error)[:300])
    if size > MAX_METADATA_BYTES:
        return Line(number, problem=f"its metadata has {size} bytes as JSON; allowed are {MAX_METADATA_BYTES}")
    return Line(number, PromptLine(prompt=prompt, metadata=metadata or None))


def _too_long(number: int) -> Line:
    return Line(number, problem=f"it is longer than {MOST_INPUT_BYTES} bytes")


def _lines(file: BinaryIO) -> Iterator[tuple[int, str | None]]:
    """Lines by number, without their ends; None for one of more than MOST_INPUT_BYTES. Raises NotText."""
    number = 0
    while line := file.readline(MOST_INPUT_BYTES + 2):
        number += 1
        long = len(line) > MOST_INPUT_BYTES and not line.endswith(b"\n")
        if b"\x00" in line:
            at = line.index(0) + 1
            raise NotText(f"line {number}: there is a NUL at its byte {at}; this is no text; save the file as UTF-8")
        if long:
            while (rest := file.readline(MOST_INPUT_BYTES)) and not rest.endswith(b"\n"):
                if b"\x00" in rest:
                    raise NotText(f"line {number}: there is a NUL in it; this is no text")
            yield number, None
            continue
        line = line.removeprefix(b"\xef\xbb\xbf") if number == 1 else line
        try:
            yield number, line.decode("utf-8").removesuffix("\n").removesuffix("\r")
        except UnicodeDecodeError as error:
            at, byte = error.start + 1, line[error.start]
            msg = f"line {number}: byte {at} is 0x{byte:02x}, which is no UTF-8 there; save the file as UTF-8"
            raise NotText(msg) from error
