"""A checkout of the official repository becomes benchmarks: prompts from its CSV, the judge's words from a script."""

import string
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from service.api.benchmarks.constants import Constants, Unreadable
from service.contracts.benchmarks.data import Benchmark, JudgeWords, Language
from service.contracts.benchmarks.dimensions import dimension_of
from service.contracts.benchmarks.official import FILES, OfficialFile
from service.contracts.benchmarks.reading import Reading, read_prompts

SCRIPTS = "eval/src"
"""Where the checkout has its scripts."""
CONFIG = "LANG_CONFIGS"
"""The constant of one of them that names the judge's words by language."""
FIELDS = frozenset({"prompt", "testpoint", "explanation", "test_explanation"})
"""What a template may ask for."""
_LARGEST = 64 * 2**20
"""Bytes of a file. The largest official one has less than one."""


@dataclass
class FileReport:
    """What was found in one file of prompts."""

    file: OfficialFile
    reading: Reading
    benchmark: Benchmark | None
    """None where it has no good row, or the judge's words for it are not to be had."""


@dataclass
class Report:
    """What was found in a checkout. `faults` forbid any import, bad rows one that was not asked to leave them out."""

    faults: list[str] = field(default_factory=list)
    files: list[FileReport] = field(default_factory=list)

    @property
    def bad_rows(self) -> int:
        """In all files."""
        return sum(len(one.reading.problems) for one in self.files)

    def benchmarks(self, allow_bad_rows: bool) -> list[Benchmark]:
        """What may be imported: everything, or nothing."""
        found = [one.benchmark for one in self.files if one.benchmark is not None]
        allowed = not self.faults and (allow_bad_rows or not self.bad_rows)
        return found if allowed else []


def examine(checkout: Path) -> Report:
    """Read the checkout; nothing of it is executed. Never raises: what is wrong is in the report."""
    report = Report()
    words = _words(checkout, report)
    contents = {file: _content(checkout / file.path, report.faults) for file in FILES}
    if not any(contents.values()) and not words:
        files = ", ".join(file.path for file in FILES)
        report.faults = [
            f"{checkout} is no checkout of UniGenBench: it has none of {files}, and no Python file in {SCRIPTS}/ that "
            f"assigns {CONFIG}"
        ]
        return report
    for file, content in contents.items():
        if content is not None:
            report.files.append(_file(file, content, words.get(file.language), report.faults))
    return report


def _file(file: OfficialFile, content: bytes, judge: JudgeWords | None, faults: list[str]) -> FileReport:
    reading = read_prompts(content, file)
    if not reading.prompts:
        faults.append(f"{file.path} has no row that can be taken")
    if not reading.prompts or judge is None:
        return FileReport(file, reading, None)
    undefined = sorted({point.name for prompt in reading.prompts for point in prompt.points} - judge.definitions.keys())
    if undefined:
        faults.append(f"the scripts define none of these dimensions of {file.path}: {', '.join(undefined)}")
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
        if path.stat().st_size > _LARGEST:
            faults.append(f"{path} has more than {_LARGEST} bytes")
            return None
        return path.read_bytes()
    except OSError as error:
        faults.append(f"{path} cannot be read: {error.strerror or error}")
        return None


def _words(checkout: Path, report: Report) -> dict[Language, JudgeWords]:
    """The judge's words by language, from the one script that has them."""
    found = []
    for path in sorted((checkout / SCRIPTS).glob("*.py")):
        content = _content(path, report.faults) or b""
        if CONFIG.encode() in content:
            try:
                constants = Constants(content)
            except Unreadable as error:
                report.faults.append(f"{path}: {error}")
            else:
                found += [(path, constants)] if CONFIG in constants else []
    if len(found) != 1:
        names = ", ".join(path.name for path, _ in found) or "none"
        report.faults.append(f"one Python file in {checkout / SCRIPTS} must assign {CONFIG}; found: {names}")
        return {}
    [(path, constants)] = found
    words: dict[Language, JudgeWords] = {}
    for language in ("en", "zh"):
        try:
            words[language] = _of_language(constants, language)
        except ValueError as error:
            report.faults.append(f"{path}: {CONFIG}[{language!r}]: {error}")
    return words


def _of_language(constants: Constants, language: str) -> JudgeWords:
    """The words of one language. Raises ValueError."""
    languages = constants.value(CONFIG)
    config = languages.get(language) if isinstance(languages, dict) else None
    if not isinstance(config, dict):
        raise ValueError("it is missing, or no mapping")
    template, definitions = config.get("system_prompt_template"), config.get("explanation_dict")
    headings = [config.get(key) for key in ("checkpoint_header", "checkpoint_desc_header")]
    if not all(isinstance(text, str) and text.strip() for text in (template, *headings)):
        names = "'system_prompt_template', 'checkpoint_header' and 'checkpoint_desc_header'"
        raise ValueError(f"{names} must be texts that are not empty")
    if not isinstance(definitions, dict) or not all(isinstance(text, str) for text in definitions.values()):
        raise ValueError("'explanation_dict' must be a mapping of dimensions to texts")
    faults = [*_faults_of_template(template), *_faults_of_definitions(definitions)]
    if any(not _storable(text) for text in (template, *headings, *definitions, *definitions.values())):
        faults.append("a text has a NUL character, or half of a surrogate pair")
    if faults:
        raise ValueError("; ".join(faults))
    return JudgeWords(
        template=template,
        definitions={name.strip(): text for name, text in definitions.items()},
        definitions_heading=headings[0],
        descriptions_heading=headings[1],
    )


def _faults_of_template(template: Any) -> Iterator[str]:
    try:
        parts = list(string.Formatter().parse(template))
    except ValueError as error:
        yield f"the template cannot be filled in: {error}"
        return
    asked = {name for _, name, _, _ in parts if name is not None}
    if strangers := sorted(asked - FIELDS):
        yield f"the template asks for {', '.join(map(repr, strangers))}; it may for {', '.join(sorted(FIELDS))}"
    if any(spec or conversion for _, name, spec, conversion in parts if name is not None):
        yield "the template's fields must stand alone, without conversion or format"
    if missing := sorted({"prompt", "testpoint"} - asked):
        yield f"the template does not say {' and '.join(missing)}"


def _faults_of_definitions(definitions: dict[str, str]) -> Iterator[str]:
    if strangers := [name for name in definitions if dimension_of(name) is None]:
        yield f"it defines unknown dimensions: {', '.join(strangers[:10])}"


def _storable(text: str) -> bool:
    return "\x00" not in text and not any("\ud800" <= letter <= "\udfff" for letter in text)
