"""Reading of result files from the official scripts: CSV, rows as JSON, and the summary of counts."""

import ast
import csv
import itertools
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, TextIO

from service.contracts.benchmarks.data import Benchmark, BenchmarkPrompt, RowProblem
from service.contracts.benchmarks.dimensions import PRIMARY, SUB, dimension_of, primary_named, primary_of, tidy
from service.contracts.benchmarks.judge_answers import Failure, Verdict, check_scores, read_answer
from service.contracts.json_limits import check_json

COLUMNS = ("index", "testpoint", "result_json", "img_path")
"""The required columns. The column `output`, with the text of the judge's answer, is optional."""
_IMAGE = re.compile(r"(?:.*[/\\])?([0-9]{1,6})_([0-9]{1,6})\.[A-Za-z0-9]{1,8}", re.DOTALL)
_STRINGS = "|".join(rf"{quote}(?:[^{quote}\\\n]|\\.)*{quote}(?!{quote})" for quote in "'\"")
_TOKEN = re.compile(rf"\s+|[\[\]{{}}:,]|-?[0-9]+(?:\.[0-9]+)?|(?:True|False|None)(?!\w)|{_STRINGS}", re.DOTALL)
_MAX_DEPTH = 8
_MAX_LENGTH = 1_000_000
MAX_ROW = 2 * 2**20
"""Maximum number of characters in a line of a file, and in a JSON row: an answer has up to 200,000, escaped or not."""
MAX_COLUMNS = 64
MAX_VALUES = 10_000
"""Maximum number of values in a row of a JSON Lines file."""
MAX_ROWS = 200_000
MAX_PROBLEMS = 20
"""Number of invalid rows after which reading stops."""
csv.field_size_limit(MAX_ROW)  # Python's default is shorter than an answer
Check = Callable[[], None]
"""A function that is called before each line or row, and raises to stop."""
_SPACE = re.compile(r"[ \t\n\r]*")


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


def read_csv(file: TextIO, benchmark: Benchmark, check: Check = lambda: None) -> Answers:
    """Read the answers in an official result CSV. The file must be opened with `newline=""`.

    Raises ValueError if a line or the file is too long.
    """
    return _read(_csv_rows(_lines(file, check)), benchmark)


def read_lines(file: TextIO, benchmark: Benchmark, check: Check = lambda: None) -> Answers:
    """Read the answers in a JSON Lines file, which the official script writes during a run.

    Raises ValueError if a line or the file is too long.
    """
    return _read(_json_rows(_lines(file, check)), benchmark)


def read_json(file: TextIO, benchmark: Benchmark, check: Check = lambda: None) -> Answers | Counts:
    """Read the answers in a JSON list of rows, one at a time, or the counts in an official summary.

    Raises ValueError if the file is neither, or too long.
    """
    text = file.read(MAX_ROW)
    if text.lstrip().startswith("["):
        return _read(_listed_rows(file, text.lstrip()[1:], check), benchmark)
    check_json(text.encode(), MAX_VALUES)
    value = json.loads(text)
    if isinstance(value, dict) and {"primary_dimensions", "sub_dimensions"} <= value.keys():
        return _counts(value)
    raise ValueError(
        "The JSON is neither a list of rows nor a summary with `primary_dimensions` and `sub_dimensions`, as the "
        "official scripts write"
    )


def _csv_rows(lines: Iterable[str]) -> Iterator[tuple[int, Any]]:
    reader = csv.DictReader(lines, strict=True)
    number = 1
    try:
        names = reader.fieldnames or ()
        if len(names) > MAX_COLUMNS:
            yield 1, f"{len(names)} columns; the maximum is {MAX_COLUMNS}"
            return
        missing = [column for column in COLUMNS if column not in names]
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
                check_json(line.encode(), MAX_VALUES)
                yield number, json.loads(line)
            except ValueError as error:
                yield number, f"invalid JSON: {str(error)[:200]}"


def _listed_rows(file: TextIO, text: str, check: Check) -> Iterator[tuple[int, Any]]:
    """Yield the rows of a JSON list. `text` is the beginning of the list, without its bracket."""
    decoder, position = json.JSONDecoder(), 0
    for number in itertools.count(1):
        check()
        if len(text) - position < MAX_ROW and (more := file.read(MAX_ROW)):
            text, position = text[position:] + more, 0
        position = _after_space(text, position)
        if number > 1 and text.startswith(",", position):
            position = _after_space(text, position + 1)
        elif text.startswith("]", position) and not text[position + 1 :].strip() and not file.read(1):
            return
        elif number > 1:
            yield number, "invalid JSON: expected `,` or the end of the list"
            return
        try:
            row, position = decoder.raw_decode(text, position)
        except (ValueError, RecursionError) as error:
            reason = "nesting too deep" if isinstance(error, RecursionError) else getattr(error, "msg", str(error))
            yield number, f"invalid JSON: {reason[:200]}"
            return
        yield number, row


def _after_space(text: str, position: int) -> int:
    found = _SPACE.match(text, position)
    return found.end() if found else position


def _lines(file: TextIO, check: Check) -> Iterator[str]:
    while line := file.readline(MAX_ROW + 1):
        check()
        if len(line) > MAX_ROW:
            raise ValueError(f"a line has more than {MAX_ROW} characters")
        yield line


def _read(rows: Iterable[tuple[int, Any]], benchmark: Benchmark) -> Answers:
    """Parse the rows. A row that does not belong to the benchmark is reported as a problem, not as a failed answer."""
    prompts = {prompt.index: prompt for prompt in benchmark.prompts}
    read = Answers()
    seen: dict[tuple[int, int], int] = {}
    for number, row in rows:
        if len(read.answers) == MAX_ROWS:
            raise ValueError(f"The file has more than {MAX_ROWS} rows")
        answer = _answer(row, prompts)
        if isinstance(answer, Answer):
            image = (answer.index, answer.image_index)
            if image not in seen:
                seen[image] = number
                read.answers.append(answer)
                continue
            answer = f"duplicate image {answer.index}_{answer.image_index}, first in row {seen[image]}"
        read.problems.append(RowProblem(row=number, index=None, description=answer))
        if len(read.problems) == MAX_PROBLEMS:
            break
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
