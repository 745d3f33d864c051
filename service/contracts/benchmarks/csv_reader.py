"""Reader for the official CSV files. Each row is accepted, repaired and recorded, or reported with its row number."""

import codecs
import contextlib
import csv
import hashlib
import io
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from service.contracts.benchmarks.data import BenchmarkPrompt, Point, Repair, RowProblem
from service.contracts.benchmarks.dimensions import dimension_of
from service.contracts.benchmarks.official import KEYS, OfficialFile

_MAX_PROMPT = 10_000
_INDEX = re.compile(r"[0-9]{1,6}")
_BYTE_ORDER_MARKS = {codecs.BOM_UTF16_LE: "UTF-16", codecs.BOM_UTF16_BE: "UTF-16", codecs.BOM_UTF32_BE: "UTF-32"}
_SURROGATE = re.compile("[\ud800-\udfff]")


@dataclass
class ParsedFile:
    """The result of reading a prompt file."""

    sha256: str
    pinned: bool
    prompts: list[BenchmarkPrompt] = field(default_factory=list)
    repairs: list[Repair] = field(default_factory=list)
    problems: list[RowProblem] = field(default_factory=list)


class _BadRow(ValueError):
    """A row cannot be used. `index` is its prompt index, or None if unknown."""

    def __init__(self, description: str, index: int | None = None) -> None:
        super().__init__(description)
        self.index = index


def read_prompts(data: bytes, file: OfficialFile) -> ParsedFile:
    """Read an official file, or a file in the same format.

    Errors in the file are listed in `problems` instead of being raised.
    """
    sha256 = hashlib.sha256(data).hexdigest()
    reading = ParsedFile(sha256, pinned=sha256 == file.sha256)

    def report(row: int, error: Exception | str, index: int | None = None) -> None:
        reading.problems.append(RowProblem(row=row, index=index, description=str(error)))

    for mark, encoding in _BYTE_ORDER_MARKS.items():
        if data.startswith(mark):
            report(1, f"the file is {encoding}; save it as UTF-8")
            return reading
    # Invalid UTF-8 becomes surrogates, so that only the affected row is rejected.
    rows = csv.reader(io.StringIO(data.decode("utf-8-sig", "surrogateescape"), newline=""), strict=True)
    number, columns = 0, None
    seen: dict[int, int] = {}
    try:
        for number, row in enumerate(rows, 1):
            try:
                if columns is None:
                    columns = _columns(row, file)
                elif row:
                    prompt, repair = _read_row(number, row, columns, file, seen)
                    reading.prompts.append(prompt)
                    if repair is not None:
                        reading.repairs.append(Repair(row=number, index=prompt.index, description=repair))
            except _BadRow as error:
                report(number, error, error.index)
                if columns is None:
                    return reading
    except csv.Error as error:
        report(number + 1, f"invalid CSV: {error}")
    if columns is None and not reading.problems:
        report(1, "the file is empty")
    return reading


def is_storable(text: Any) -> bool:
    """Whether `text` is a string that the database can store: no NUL and no unpaired surrogates."""
    return isinstance(text, str) and "\x00" not in text and not _SURROGATE.search(text)


def _columns(header: list[str], file: OfficialFile) -> tuple[int, ...]:
    """Return the positions of the required columns. Raises _BadRow unless each column occurs exactly once."""
    if missing := [column for column in file.columns if header.count(column) != 1]:
        found = ", ".join(map(repr, header[:10])) or "none"
        raise _BadRow(f"these columns must occur exactly once: {', '.join(missing)}; the header has {found}")
    return tuple(header.index(column) for column in file.columns)


def _read_row(
    number: int, row: list[str], columns: tuple[int, ...], file: OfficialFile, seen: dict[int, int]
) -> tuple[BenchmarkPrompt, str | None]:
    """Parse a row. Returns the prompt, and a description of the repair or None.

    `seen` maps prompt indices to row numbers and is updated. Raises _BadRow if the row cannot be used.
    """
    if len(row) <= max(columns):
        raise _BadRow(f"the row has {len(row)} columns, fewer than the header")
    number_text, text, content = (row[column] for column in columns)
    if not _INDEX.fullmatch(number_text):
        raise _BadRow(f"invalid index {number_text[:40]!r}; must be an integer from 0 to 999999")
    index = int(number_text)
    if index in seen:
        raise _BadRow(f"duplicate index, first in row {seen[index]}", index)
    seen[index] = number
    if _SURROGATE.search(text + content):
        raise _BadRow("the row is not UTF-8", index)
    faults = list(_prompt_faults(text))
    try:
        value, repair = _parse(content)
        faults += _faults(value, file)
    except ValueError as error:
        faults.append(str(error))
    if faults:
        raise _BadRow("; ".join(faults), index)
    keys = KEYS[file.language]
    prompt = BenchmarkPrompt(
        index=index,
        text=text,
        category=value[keys.category],
        subcategory=value[keys.subcategory],
        subject=value[keys.subject],
        sentence_structure=value[keys.sentence_structure],
        points=tuple(
            Point(name=name.strip(), dimension=dimension_of(name) or "", description=description)
            for name, description in zip(value[keys.points], value[keys.descriptions], strict=True)
        ),
    )
    return prompt, repair


def _parse(text: str) -> tuple[dict[str, Any], str | None]:
    """Parse the JSON object in a row. Returns the object, and a description of the repair or None.

    Only one error is repaired: a single missing comma between two strings separated by whitespace. Raises ValueError if
    the text is not a JSON object.
    """
    try:
        return _json_object(text), None
    except json.JSONDecodeError as error:
        before, after = text[: error.pos].rstrip(), text[error.pos :]
        first, second = re.search(r'"([^"\\]*)"$', before), re.match(r'"([^"\\]*)"', after)
        if error.msg == "Expecting ',' delimiter" and before != text[: error.pos] and first and second:
            with contextlib.suppress(ValueError, RecursionError):
                return _json_object(f"{before}, {after}"), f"added a comma between {first[0]} and {second[0]}"
        raise ValueError(f"invalid JSON at character {error.pos + 1}: {error.msg}") from None
    except RecursionError:
        raise ValueError("invalid JSON: nesting too deep") from None
    except ValueError as error:
        raise ValueError(f"invalid JSON: {str(error)[:200]}") from None


def _json_object(text: str) -> dict[str, Any]:
    value = json.loads(text, object_pairs_hook=_unique)
    if not isinstance(value, dict):
        raise ValueError("not an object")
    return value


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len(names := dict(pairs)) < len(pairs):
        raise ValueError("a name occurs twice")
    return names


def _prompt_faults(text: str) -> Iterator[str]:
    if not text.strip():
        yield "the prompt is empty"
    if len(text) > _MAX_PROMPT:
        yield f"the prompt has {len(text)} characters; at most {_MAX_PROMPT} are allowed"
    if "\x00" in text:
        yield "the prompt has a NUL character"


def _faults(value: dict[str, Any], file: OfficialFile) -> Iterator[str]:
    keys = KEYS[file.language]
    for key in keys:
        if key not in value:
            yield f"{key!r} is missing"
        elif key not in (keys.points, keys.descriptions) and not is_storable(value[key]):
            yield f"{key!r} must be a string"
    names, descriptions = (value.get(key, [""]) for key in (keys.points, keys.descriptions))
    for key, texts in ((keys.points, names), (keys.descriptions, descriptions)):
        if not isinstance(texts, list) or not texts or not all(map(is_storable, texts)):
            yield f"{key!r} must be a nonempty list of strings"
    if isinstance(value.get(keys.points), list):
        if isinstance(descriptions, list) and keys.descriptions in value and len(names) != len(descriptions):
            yield f"{len(names)} test points have {len(descriptions)} descriptions"
        for position, name in enumerate(names, 1):
            if isinstance(name, str) and dimension_of(name) is None:
                yield f"test point {position} has the unknown dimension {name[:80]!r}"
