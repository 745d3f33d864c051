"""Read benchmarks from a checkout of the official repository.

Prompts come from its CSV files, and judge prompts from one of its scripts.
"""

import string
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from service.api.benchmarks.constants import Constants, Unreadable
from service.contracts.benchmarks.csv_reader import ParsedFile, is_storable, read_prompts
from service.contracts.benchmarks.data import Benchmark, JudgePrompt, Language
from service.contracts.benchmarks.dimensions import dimension_of
from service.contracts.benchmarks.official import FILES, OfficialFile

SCRIPTS = "eval/src"
"""The directory in the checkout that contains the scripts."""
CONFIG = "LANG_CONFIGS"
"""The name of the constant, defined in one script, that holds the judge prompts by language."""
FIELDS = frozenset({"prompt", "testpoint", "explanation", "test_explanation"})
"""The fields that a template may contain."""
_MAX_BYTES = 64 * 2**20
"""The maximum size of a file. The largest official file is smaller than 1 MiB."""


@dataclass
class FileReport:
    """The content of one prompt file."""

    file: OfficialFile
    reading: ParsedFile
    benchmark: Benchmark | None
    """None if the file has no valid rows or its language has no readable judge prompt."""


@dataclass
class Report:
    """The content of a checkout.

    The import is refused if there are `faults`, or bad rows that are not explicitly allowed.
    """

    faults: list[str] = field(default_factory=list)
    files: list[FileReport] = field(default_factory=list)

    @property
    def bad_rows(self) -> int:
        """The number of bad rows in all files."""
        return sum(len(report.reading.problems) for report in self.files)

    def benchmarks(self, allow_bad_rows: bool) -> list[Benchmark]:
        """Return the benchmarks to import, or an empty list if the import is not allowed."""
        if self.faults or (self.bad_rows and not allow_bad_rows):
            return []
        return [report.benchmark for report in self.files if report.benchmark is not None]


def examine(checkout: Path) -> Report:
    """Read a checkout without executing any code. Problems are listed in the report instead of being raised."""
    report = Report()
    judges = _judge_prompts(checkout, report)
    contents = {file: _content(checkout / file.path, report.faults) for file in FILES}
    if not any(contents.values()) and not judges:
        files = ", ".join(file.path for file in FILES)
        report.faults = [
            f"{checkout} is not a checkout of UniGenBench: found neither {files} nor a Python file in {SCRIPTS}/ that "
            f"assigns {CONFIG}"
        ]
        return report
    for file, content in contents.items():
        if content is not None:
            report.files.append(_file(file, content, judges.get(file.language), report.faults))
    return report


def _file(file: OfficialFile, content: bytes, judge: JudgePrompt | None, faults: list[str]) -> FileReport:
    reading = read_prompts(content, file)
    if not reading.prompts:
        faults.append(f"{file.path} has no valid row")
    if not reading.prompts or judge is None:
        return FileReport(file, reading, None)
    undefined = sorted({point.name for prompt in reading.prompts for point in prompt.points} - judge.definitions.keys())
    if undefined:
        faults.append(f"the scripts do not define these dimensions of {file.path}: {', '.join(undefined)}")
    benchmark = Benchmark(
        name=file.name,
        title=file.title,
        language=file.language,
        length=file.length,
        file=Path(file.path).name,
        data_sha256=reading.sha256,
        pinned=reading.pinned,
        prompts=tuple(reading.prompts),
        repairs=tuple(reading.repairs),
        left_out=tuple(reading.problems),
        judge=judge,
    )
    return FileReport(file, reading, benchmark)


def _content(path: Path, faults: list[str]) -> bytes | None:
    try:
        if path.stat().st_size <= _MAX_BYTES:
            return path.read_bytes()
        faults.append(f"{path} is larger than {_MAX_BYTES} bytes")
    except OSError as error:
        faults.append(f"{path} cannot be read: {error.strerror or error}")
    return None


def _judge_prompts(checkout: Path, report: Report) -> dict[Language, JudgePrompt]:
    """Read the judge prompts by language from the single script that defines them. Adds faults to `report`."""
    scripts: list[tuple[Path, Constants]] = []
    for path in sorted((checkout / SCRIPTS).glob("*.py")):
        content = _content(path, report.faults) or b""
        if CONFIG.encode() in content:
            try:
                constants = Constants(content)
            except Unreadable as error:
                report.faults.append(f"{path}: {error}")
            else:
                scripts += [(path, constants)] if CONFIG in constants else []
    if len(scripts) != 1:
        names = ", ".join(path.name for path, _ in scripts) or "none"
        report.faults.append(f"exactly one Python file in {checkout / SCRIPTS} must assign {CONFIG}; found: {names}")
        return {}
    [(path, constants)] = scripts
    prompts: dict[Language, JudgePrompt] = {}
    for language in ("en", "zh"):
        try:
            prompts[language] = _judge_prompt(constants, language)
        except ValueError as error:
            report.faults.append(f"{path}: {CONFIG}[{language!r}]: {error}")
    return prompts


def _judge_prompt(constants: Constants, language: str) -> JudgePrompt:
    """Read the judge prompt for one language. Raises ValueError if it is missing or invalid."""
    languages = constants.value(CONFIG)
    config = languages.get(language) if isinstance(languages, dict) else None
    if not isinstance(config, dict):
        raise ValueError("missing, or not a mapping")
    texts = [config.get(key) for key in ("system_prompt_template", "checkpoint_header", "checkpoint_desc_header")]
    if not all(isinstance(text, str) and text.strip() for text in texts):
        names = "'system_prompt_template', 'checkpoint_header' and 'checkpoint_desc_header'"
        raise ValueError(f"{names} must be nonempty strings")
    definitions = config.get("explanation_dict")
    if not isinstance(definitions, dict) or not all(isinstance(text, str) for text in definitions.values()):
        raise ValueError("'explanation_dict' must map dimensions to strings")
    template, definitions_heading, descriptions_heading = texts
    faults = [*_template_faults(template)]
    if unknown := [name for name in definitions if dimension_of(name) is None]:
        faults.append(f"definitions of unknown dimensions: {', '.join(unknown[:10])}")
    if not all(map(is_storable, (*texts, *definitions, *definitions.values()))):
        faults.append("a text has a NUL character or a lone surrogate")
    if faults:
        raise ValueError("; ".join(faults))
    return JudgePrompt(
        template=template,
        definitions={name.strip(): text for name, text in definitions.items()},
        definitions_heading=definitions_heading,
        descriptions_heading=descriptions_heading,
    )


def _template_faults(template: Any) -> Iterator[str]:
    try:
        fields = [(name, spec, conversion) for _, name, spec, conversion in string.Formatter().parse(template)]
    except ValueError as error:
        yield f"invalid template: {error}"
        return
    names = {name for name, _, _ in fields if name is not None}
    if unknown := sorted(names - FIELDS):
        yield f"unknown template fields {', '.join(map(repr, unknown))}; allowed: {', '.join(sorted(FIELDS))}"
    if any(spec or conversion for _, spec, conversion in fields):
        yield "template fields must have no conversion or format"
    if missing := sorted({"prompt", "testpoint"} - names):
        yield f"template fields missing: {', '.join(missing)}"
