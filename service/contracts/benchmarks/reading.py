"""Reading the official CSV files: every row is taken, mended with a record, or told by its number."""

import codecs
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

_LONGEST_PROMPT = 10_000
_INDEX = re.compile(r"[0-9]{1,6}")
_MARKS = {codecs.BOM_UTF16_LE: "UTF-16", codecs.BOM_UTF16_BE: "UTF-16", codecs.BOM_UTF32_BE: "UTF-32"}
_UNDECODED = re.compile("[\ud800-\udfff]")


@dataclass
class Reading:
    """What a file of prompts holds."""

    sha256: str
    pinned: bool
    prompts: list[BenchmarkPrompt] = field(default_factory=list)
    repairs: list[Repair] = field(default_factory=list)
    problems: list[RowProblem] = field(default_factory=list)


def read_prompts(data: bytes, file: OfficialFile) -> Reading:
    """The prompts in the bytes of an official file, or of one like it. Never raises: what is wrong is in `problems`."""
    sha256 = hashlib.sha256(data).hexdigest()
    reading = Reading(sha256, pinned=sha256 == file.sha256)
    for mark, encoding in _MARKS.items():
        if data.startswith(mark):
            _tell(reading, 1, None, f"the file is in {encoding}; it must be in UTF-8")
            return reading
    # What is no UTF-8 becomes surrogates, so that it is told of its own row, and the rest can be read.
    rows = csv.reader(io.StringIO(data.decode("utf-8-sig", "surrogateescape"), newline=""), strict=True)
    number = 0
    places: dict[str, int] | None = None
    seen: dict[int, int] = {}
    try:
        for number, row in enumerate(rows, 1):
            if places is None:
                places = _places(reading, row, file)
                if not places:
                    return reading
            elif row:
                _take(reading, number, row, places, file, seen)
    except csv.Error as error:
        _tell(reading, number + 1, None, f"this is no CSV from here on: {error}")
    if places is None and not reading.problems:
        _tell(reading, 1, None, "the file is empty")
    return reading


def _places(reading: Reading, heading: list[str], file: OfficialFile) -> dict[str, int]:
    """Where each column stands; empty, and told, where one is missing."""
    missing = [column for column in file.columns if heading.count(column) != 1]
    if not missing:
        return {column: heading.index(column) for column in file.columns}
    found = ", ".join(map(repr, heading[:10])) or "none"
    _tell(reading, 1, None, f"each of the columns {', '.join(missing)} must be there once; the heading has {found}")
    return {}


def _take(
    reading: Reading, number: int, row: list[str], places: dict[str, int], file: OfficialFile, seen: dict[int, int]
) -> None:
    if len(row) <= max(places.values()):
        _tell(reading, number, None, f"it has {len(row)} of the heading's columns")
        return
    said, text, about = (row[places[column]] for column in file.columns)
    index = int(said) if _INDEX.fullmatch(said) else None
    if index is None:
        _tell(reading, number, None, f"index {said[:40]!r} is no whole number from 0 to 999999")
        return
    if index in seen:
        _tell(reading, number, index, f"the index stands in row {seen[index]}, too")
        return
    seen[index] = number
    if _UNDECODED.search(text + about):
        _tell(reading, number, index, "it is not in UTF-8")
        return
    value, repair = _json(about)
    faults = [*_faults_of_text(text), *([value] if isinstance(value, str) else _faults(value, file))]
    if faults:
        _tell(reading, number, index, "; ".join(faults))
        return
    assert isinstance(value, dict)
    if repair is not None:
        reading.repairs.append(Repair(row=number, index=index, description=repair))
    reading.prompts.append(_prompt(index, text, value, file))


def _prompt(index: int, text: str, value: dict[str, Any], file: OfficialFile) -> BenchmarkPrompt:
    keys = KEYS[file.language]
    points = zip(value[keys.points], value[keys.descriptions], strict=True)
    return BenchmarkPrompt(
        index=index,
        text=text,
        category=value[keys.category],
        subcategory=value[keys.subcategory],
        subject=value[keys.subject],
        sentence_structure=value[keys.sentence_structure],
        points=tuple(
            Point(name=name.strip(), dimension=dimension_of(name) or "", description=description)
            for name, description in points
        ),
    )


def _json(text: str) -> tuple[dict[str, Any] | str, str | None]:
    """The mapping in a row, or what is wrong with it; and the repair, where one was needed.

    The one fault that is mended: exactly one comma is missing, between two strings that only blanks keep apart.
    """
    try:
        return _mapping(text), None
    except json.JSONDecodeError as error:
        before, after = text[: error.pos].rstrip(), text[error.pos :]
        first, second = re.search(r'"([^"\\]*)"$', before), re.match(r'"([^"\\]*)"', after)
        between_strings = before != text[: error.pos] and first and second
        if error.msg == "Expecting ',' delimiter" and between_strings and first and second:
            try:
                mended = _mapping(f"{before}, {after}")
            except (ValueError, RecursionError):
                pass
            else:
                return mended, f"a comma was missing between {first[0]} and {second[0]}"
        return f"its JSON is broken at character {error.pos + 1}: {error.msg}", None
    except RecursionError:
        return "its JSON nests too deep", None
    except ValueError as error:
        return f"its JSON cannot be taken: {str(error)[:200]}", None


def _mapping(text: str) -> dict[str, Any]:
    value = json.loads(text, object_pairs_hook=_once)
    if not isinstance(value, dict):
        raise ValueError("it is no mapping of names to values")
    return value


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) < len(pairs):
        raise ValueError("a name stands in it twice")
    return made


def _faults_of_text(text: str) -> Iterator[str]:
    if not text.strip():
        yield "the prompt is empty"
    if len(text) > _LONGEST_PROMPT:
        yield f"the prompt has {len(text)} characters; allowed are {_LONGEST_PROMPT}"
    if "\x00" in text:
        yield "the prompt has a NUL character"


def _faults(value: dict[str, Any], file: OfficialFile) -> Iterator[str]:
    keys = KEYS[file.language]
    for key in (keys.category, keys.subcategory, keys.subject, keys.sentence_structure):
        if not _is_text(value.get(key)):
            yield f"{key!r} must be a text" if key in value else f"{key!r} is missing"
    lists = [value.get(key) for key in (keys.points, keys.descriptions)]
    for key, one in zip((keys.points, keys.descriptions), lists, strict=True):
        if key not in value:
            yield f"{key!r} is missing"
        elif not isinstance(one, list) or not one or not all(_is_text(text) for text in one):
            yield f"{key!r} must be a list of texts, with at least one"
    names, descriptions = lists
    if isinstance(names, list) and isinstance(descriptions, list) and len(names) != len(descriptions):
        yield f"{len(names)} test points have {len(descriptions)} descriptions"
    if isinstance(names, list):
        for place, name in enumerate(names, 1):
            if isinstance(name, str) and dimension_of(name) is None:
                yield f"test point {place} is of the unknown dimension {name[:80]!r}"


def _is_text(value: Any) -> bool:
    """Whether it is a text that a database can store."""
    return isinstance(value, str) and "\x00" not in value and not _UNDECODED.search(value)


def _tell(reading: Reading, row: int, index: int | None, description: str) -> None:
    reading.problems.append(RowProblem(row=row, index=index, description=description))
