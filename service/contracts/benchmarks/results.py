"""Reading result files of the official scripts: their CSV, its rows as JSON, and their summary of counts."""

import ast
import csv
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, TextIO

from service.contracts.benchmarks.data import Benchmark, BenchmarkPrompt, RowProblem
from service.contracts.benchmarks.dimensions import PRIMARY, SUB, dimension_of, primary_named, primary_of, tidy
from service.contracts.benchmarks.judging import Failure, Verdict, check_scores, read_answer

COLUMNS = ("index", "testpoint", "result_json", "img_path")
"""Those that must be there; `output`, the judge's words, is read where it is."""
_IMAGE = re.compile(r"(?:.*[/\\])?([0-9]{1,6})_([0-9]{1,6})\.[A-Za-z0-9]{1,8}", re.DOTALL)
_STRINGS = "|".join(rf"{quote}(?:[^{quote}\\\n]|\\.)*{quote}(?!{quote})" for quote in "'\"")
_TOKEN = re.compile(rf"\s+|[\[\]{{}}:,]|-?[0-9]+(?:\.[0-9]+)?|(?:True|False|None)(?!\w)|{_STRINGS}", re.DOTALL)
_DEEPEST = 8
_LONGEST = 1_000_000


@dataclass(frozen=True)
class Answer:
    """What a judge said of one image."""

    index: int
    """The prompt's."""
    image_index: int
    """The image's number among those of its prompt."""
    verdict: Verdict
    recovered: bool = False
    """Whether the official script lost it, and the judge's own words had it."""


@dataclass
class Answers:
    """The answers in a file, and the rows that are none of this benchmark's."""

    answers: list[Answer] = field(default_factory=list)
    problems: list[RowProblem] = field(default_factory=list)


@dataclass(frozen=True)
class Counts:
    """Test points that were met, of how many, by sub-dimension: what the official summary holds."""

    sub: Mapping[str, tuple[int, int]]


def read_csv(file: TextIO, benchmark: Benchmark) -> Answers:
    """The answers in an official result CSV, opened with `newline=""`."""
    return _read(_csv_rows(file), benchmark)


def read_lines(file: TextIO, benchmark: Benchmark) -> Answers:
    """The answers in a file of JSON lines, as the official script writes while it works."""
    return _read(_json_rows(file), benchmark)


def read_json(text: str, benchmark: Benchmark) -> Answers | Counts:
    """The answers in a JSON list of rows, or the counts in an official summary. Raises ValueError: it is neither."""
    try:
        value = json.loads(text)
    except RecursionError:
        raise ValueError("it nests too deep") from None
    if isinstance(value, list):
        return _read(enumerate(value, 1), benchmark)
    if isinstance(value, dict) and {"primary_dimensions", "sub_dimensions"} <= value.keys():
        return _counts(value)
    raise ValueError(
        "it is neither a list of rows nor a summary with `primary_dimensions` and `sub_dimensions`, as the official "
        "scripts write it"
    )


def _csv_rows(file: TextIO) -> Iterator[tuple[int, Any]]:
    reader = csv.DictReader(file, strict=True)
    number = 1
    try:
        missing = [column for column in COLUMNS if column not in (reader.fieldnames or ())]
        if missing:
            yield 1, f"the columns {', '.join(missing)} are missing"
            return
        for number, row in enumerate(reader, 2):
            yield number, row
    except csv.Error as error:
        yield number + 1, f"this is no CSV from here on: {error}"


def _json_rows(lines: Iterable[str]) -> Iterator[tuple[int, Any]]:
    for number, line in enumerate(lines, 1):
        if line.strip():
            try:
                yield number, json.loads(line)
            except (ValueError, RecursionError) as error:
                yield number, f"this is no JSON: {str(error)[:200]}"


def _read(rows: Iterable[tuple[int, Any]], benchmark: Benchmark) -> Answers:
    """Each row's answer. A row is a problem, not a failed answer, when it is not of this benchmark."""
    prompts = {prompt.index: prompt for prompt in benchmark.prompts}
    read = Answers()
    seen: dict[tuple[int, int], int] = {}
    for number, row in rows:
        answer = _answer(row, prompts)
        if isinstance(answer, Answer):
            image = (answer.index, answer.image_index)
            if image not in seen:
                seen[image] = number
                read.answers.append(answer)
                continue
            answer = f"image {answer.index}_{answer.image_index} stands in row {seen[image]}, too"
        read.problems.append(RowProblem(row=number, index=None, description=answer))
    return read


def _answer(row: Any, prompts: Mapping[int, BenchmarkPrompt]) -> Answer | str:
    """The answer in a row, or why it is not one of this benchmark's."""
    if not isinstance(row, dict):
        return row if isinstance(row, str) else "this is no mapping of columns to values"
    said, path = str(row.get("index", "")).strip(), row.get("img_path")
    image = _IMAGE.fullmatch(path) if isinstance(path, str) else None
    if image is None:
        return f"img_path {str(path)[:80]!r} names no image; one is called INDEX_NUMBER.png"
    index = int(image[1])
    if said != str(index):
        return f"index {said[:40]!r} is not that of its image {index}_{image[2]}"
    prompt = prompts.get(index)
    if prompt is None:
        return f"the benchmark has no prompt {index}"
    names = _literal(row.get("testpoint"))
    if not isinstance(names, list) or [_named(name) for name in names] != [tidy(one.name) for one in prompt.points]:
        return f"its test points are not those that the benchmark has for prompt {index}"
    if row.get("prompt") and str(row["prompt"]).strip() != prompt.text.strip():
        return f"its prompt is not the benchmark's prompt {index}"
    verdict = _recorded(row.get("result_json"), len(prompt.points))
    recovered = False
    if verdict.scores is None:
        spoken = read_answer(_text(row.get("output")), len(prompt.points))
        # The judge's own words say better than an empty cell why there are no scores.
        if spoken.scores is not None or verdict.failure is Failure.NO_ANSWER:
            verdict, recovered = spoken, spoken.scores is not None
    return Answer(index, int(image[2]), verdict, recovered)


def _recorded(value: Any, points: int) -> Verdict:
    """The scores in a `result_json`: JSON, or the Python literal that older files have."""
    result = _literal(value)
    if result is None or (isinstance(result, str) and result.strip().lower() in ("", "nan", "null")):
        return Verdict(None, Failure.NO_ANSWER)
    if not isinstance(result, dict) or "score" not in result:
        return Verdict(None, Failure.NO_SCORES)
    return check_scores(result["score"], points)


def _literal(value: Any) -> Any:
    """What a cell's text means, as JSON or as a Python literal; the value itself if it is neither."""
    if not isinstance(value, str) or len(value) > _LONGEST:
        return value
    try:
        return json.loads(value)
    except (ValueError, RecursionError):
        pass
    place = depth = 0
    # Only what these tokens can spell goes to Python's parser: deep nesting or long sums would bring it down.
    while place < len(value):
        token = _TOKEN.match(value, place)
        if token is None:
            return value
        depth += (token[0] in ("[", "{")) - (token[0] in ("]", "}"))
        if depth > _DEEPEST:
            return value
        place = token.end()
    try:
        return ast.literal_eval(value.strip())
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        return value


def _named(name: Any) -> str | None:
    return tidy(name) if isinstance(name, str) else None


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) else None


def _counts(value: Mapping[str, Any]) -> Counts:
    """The counts of a summary, whose primary dimensions must be the sums of their parts. Raises ValueError."""
    primary = dict(_counted(value["primary_dimensions"], primary_named, "primary_dimensions"))
    sub = dict(_counted(value["sub_dimensions"], dimension_of, "sub_dimensions"))
    for name in PRIMARY:
        parts = [sub[one] for one in SUB if primary_of(one) == name and one in sub]
        whole = (sum(correct for correct, _ in parts), sum(total for _, total in parts))
        if primary.get(name, (0, 0)) != whole:
            raise ValueError(f"{name!r} has {primary.get(name, (0, 0))} met and asked; its sub-dimensions have {whole}")
    return Counts(sub)


def _counted(value: Any, named: Any, what: str) -> Iterator[tuple[str, tuple[int, int]]]:
    if not isinstance(value, dict):
        raise ValueError(f"{what!r} must be a mapping of dimensions to counts")
    seen = set()
    for spelled, counts in value.items():
        name = named(spelled)
        if name is None or name in seen:
            raise ValueError(f"{what!r} has the {'unknown' if name is None else 'repeated'} dimension {spelled[:80]!r}")
        seen.add(name)
        correct, total = (counts.get(key) if isinstance(counts, dict) else None for key in ("correct", "total"))
        if type(correct) is not int or type(total) is not int or not 0 <= correct <= total < 2**31:
            raise ValueError(f"{spelled!r} must have whole numbers `correct` and `total`, the first not the greater")
        yield name, (correct, total)
