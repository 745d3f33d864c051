"""Reading of result files from the official scripts: CSV, rows as JSON, and the summary of counts."""

import ast
import csv
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, TextIO

from service.contracts.benchmarks.data import Benchmark, BenchmarkPrompt, RowProblem
from service.contracts.benchmarks.dimensions import PRIMARY, SUB, dimension_of, primary_named, primary_of, tidy
from service.contracts.benchmarks.judge_answers import Failure, Verdict, check_scores, read_answer

COLUMNS = ("index", "testpoint", "result_json", "img_path")
"""The required columns. The column `output`, with the text of the judge's answer, is optional."""
_IMAGE = re.compile(r"(?:.*[/\\])?([0-9]{1,6})_([0-9]{1,6})\.[A-Za-z0-9]{1,8}", re.DOTALL)
_STRINGS = "|".join(rf"{quote}(?:[^{quote}\\\n]|\\.)*{quote}(?!{quote})" for quote in "'\"")
_TOKEN = re.compile(rf"\s+|[\[\]{{}}:,]|-?[0-9]+(?:\.[0-9]+)?|(?:True|False|None)(?!\w)|{_STRINGS}", re.DOTALL)
_MAX_DEPTH = 8
_MAX_LENGTH = 1_000_000


@dataclass(frozen=True)
class Answer:
    """A judge's answer for one image."""

    index: int
    """Index of the prompt."""
    image_index: int
    """Index among the images of the prompt."""
    verdict: Verdict
    recovered: bool = False
    """Whether the scores were recovered from `output` because `result_json` has none."""


@dataclass
class Answers:
    """The answers in a file, and the rows that do not belong to the benchmark."""

    answers: list[Answer] = field(default_factory=list)
    problems: list[RowProblem] = field(default_factory=list)


@dataclass(frozen=True)
class Counts:
    """Numbers of test points met and judged by sub-dimension, as in the official summary."""

    sub: Mapping[str, tuple[int, int]]


def read_csv(file: TextIO, benchmark: Benchmark) -> Answers:
    """Read the answers in an official result CSV. The file must be opened with `newline=""`."""
    return _read(_csv_rows(file), benchmark)


def read_lines(file: TextIO, benchmark: Benchmark) -> Answers:
    """Read the answers in a JSON Lines file, which the official script writes during a run."""
    return _read(_json_rows(file), benchmark)


def read_json(text: str, benchmark: Benchmark) -> Answers | Counts:
    """Read the answers in a JSON list of rows, or the counts in an official summary.

    Raises ValueError if the text is neither.
    """
    try:
        value = json.loads(text)
    except RecursionError:
        raise ValueError("Invalid JSON: nesting too deep") from None
    if isinstance(value, list):
        return _read(enumerate(value, 1), benchmark)
    if isinstance(value, dict) and {"primary_dimensions", "sub_dimensions"} <= value.keys():
        return _counts(value)
    raise ValueError(
        "The JSON is neither a list of rows nor a summary with `primary_dimensions` and `sub_dimensions`, as the "
        "official scripts write"
    )


def _csv_rows(file: TextIO) -> Iterator[tuple[int, Any]]:
    reader = csv.DictReader(file, strict=True)
    number = 1
    try:
        missing = [column for column in COLUMNS if column not in (reader.fieldnames or ())]
        if missing:
            yield 1, f"missing columns: {', '.join(missing)}"
            return
        for number, row in enumerate(reader, 2):
            yield number, row
    except csv.Error as error:
        yield number + 1, f"invalid CSV: {error}"


def _json_rows(lines: Iterable[str]) -> Iterator[tuple[int, Any]]:
    for number, line in enumerate(lines, 1):
        if line.strip():
            try:
                yield number, json.loads(line)
            except (ValueError, RecursionError) as error:
                yield number, f"invalid JSON: {str(error)[:200]}"


def _read(rows: Iterable[tuple[int, Any]], benchmark: Benchmark) -> Answers:
    """Parse the rows. A row that does not belong to the benchmark is reported as a problem, not as a failed answer."""
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
            answer = f"duplicate image {answer.index}_{answer.image_index}, first in row {seen[image]}"
        read.problems.append(RowProblem(row=number, index=None, description=answer))
    return read


def _answer(row: Any, prompts: Mapping[int, BenchmarkPrompt]) -> Answer | str:
    """Return the answer in a row, or the reason why the row does not belong to the benchmark."""
    if not isinstance(row, dict):
        return row if isinstance(row, str) else "not a mapping of columns to values"
    index_text, path = str(row.get("index", "")).strip(), row.get("img_path")
    image = _IMAGE.fullmatch(path) if isinstance(path, str) else None
    if image is None:
        return f"invalid img_path {str(path)[:80]!r}; must end in INDEX_NUMBER.png"
    index = int(image[1])
    if index_text != str(index):
        return f"index {index_text[:40]!r} differs from that of its image {index}_{image[2]}"
    prompt = prompts.get(index)
    if prompt is None:
        return f"the benchmark has no prompt {index}"
    names = _literal(row.get("testpoint"))
    spellings = [tidy(name) for name in names if isinstance(name, str)] if isinstance(names, list) else []
    if spellings != [tidy(point.name) for point in prompt.points]:
        return f"the test points differ from those of prompt {index} in the benchmark"
    if row.get("prompt") and str(row["prompt"]).strip() != prompt.text.strip():
        return f"the prompt differs from prompt {index} of the benchmark"
    verdict = _recorded(row.get("result_json"), len(prompt.points))
    recovered = False
    if verdict.scores is None:
        output = row.get("output")
        parsed = read_answer(output if isinstance(output, str) else None, len(prompt.points))
        # The answer's text explains missing scores better than an empty cell.
        if parsed.scores is not None or verdict.failure is Failure.NO_ANSWER:
            verdict, recovered = parsed, parsed.scores is not None
    return Answer(index, int(image[2]), verdict, recovered)


def _recorded(value: Any, points: int) -> Verdict:
    """Parse the scores in a `result_json` cell, which is JSON, or a Python literal in older files."""
    result = _literal(value)
    if result is None or (isinstance(result, str) and result.strip().lower() in ("", "nan", "null")):
        return Verdict(None, Failure.NO_ANSWER)
    if not isinstance(result, dict) or "score" not in result:
        return Verdict(None, Failure.NO_SCORES)
    return check_scores(result["score"], points)


def _literal(value: Any) -> Any:
    """Parse a cell as JSON or as a Python literal. Returns `value` unchanged if it is neither."""
    if not isinstance(value, str) or len(value) > _MAX_LENGTH:
        return value
    try:
        return json.loads(value)
    except (ValueError, RecursionError):
        pass
    position = depth = 0
    # Only these tokens are passed to Python's parser, because deep nesting or long sums could crash it.
    while position < len(value):
        token = _TOKEN.match(value, position)
        if token is None:
            return value
        depth += (token[0] in ("[", "{")) - (token[0] in ("]", "}"))
        if depth > _MAX_DEPTH:
            return value
        position = token.end()
    try:
        return ast.literal_eval(value.strip())
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        return value


def _counts(value: Mapping[str, Any]) -> Counts:
    """Parse the counts in a summary.

    Raises ValueError if the counts are invalid, or a primary dimension is not the sum of its sub-dimensions.
    """
    primary = dict(_counted(value["primary_dimensions"], primary_named, "primary_dimensions"))
    sub = dict(_counted(value["sub_dimensions"], dimension_of, "sub_dimensions"))
    for name in PRIMARY:
        parts = [sub[one] for one in SUB if primary_of(one) == name and one in sub]
        total = (sum(met for met, _ in parts), sum(judged for _, judged in parts))
        if primary.get(name, (0, 0)) != total:
            raise ValueError(
                f"{name!r} has {primary.get(name, (0, 0))} test points met and judged; its sub-dimensions have {total}"
            )
    return Counts(sub)


def _counted(value: Any, parse_name: Callable[[str], str | None], key: str) -> Iterator[tuple[str, tuple[int, int]]]:
    if not isinstance(value, dict):
        raise ValueError(f"{key!r} must map dimensions to counts")
    seen = set()
    for spelled, counts in value.items():
        name = parse_name(spelled)
        if name is None or name in seen:
            raise ValueError(f"{key!r} has the {'unknown' if name is None else 'repeated'} dimension {spelled[:80]!r}")
        seen.add(name)
        correct, total = (counts.get(part) if isinstance(counts, dict) else None for part in ("correct", "total"))
        if type(correct) is not int or type(total) is not int or not 0 <= correct <= total < 2**31:
            raise ValueError(f"{spelled!r} must have integers `correct` and `total` with 0 <= correct <= total")
        yield name, (correct, total)
