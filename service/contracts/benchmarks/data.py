"""Benchmark data: prompts with test points, and the judge prompt."""

import hashlib
import json
from collections.abc import Iterable
from typing import Annotated, Any, Literal

from pydantic import Field, StringConstraints

from service.contracts.base import Contract, Name
from service.contracts.benchmarks.dimensions import primary_of

Sha256 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
Language = Literal["en", "zh"]


class Point(Contract):
    """A test point: one property that the judge checks in the images of a prompt.

    A test point is identified by its position in the prompt's list, because a prompt may have several test points of
    the same dimension.
    """

    name: str = Field(description="The dimension, as spelled in the benchmark.")
    dimension: str = Field(description="One of the 27 sub-dimensions, in English.")
    description: str = Field(description="The property that the judge checks.")

    @property
    def primary(self) -> str:
        """The primary dimension, one of ten."""
        return primary_of(self.dimension)


class BenchmarkPrompt(Contract):
    """A benchmark prompt with its test points."""

    index: int = Field(ge=0, le=999_999, description="Index of the prompt. The file of image j is named `INDEX_J.png`.")
    text: str
    category: str = Field(description="Theme of the prompt.")
    subcategory: str
    subject: str
    sentence_structure: str
    points: tuple[Point, ...] = Field(min_length=1)


class Repair(Contract):
    """An error in the official data that was repaired during reading."""

    row: int = Field(description="Row number in the file; the header is row 1.")
    index: int = Field(description="Index of the prompt.")
    description: str


class RowProblem(Contract):
    """A row of a file that could not be used, and the reason."""

    row: int = Field(description="Row number in the file; the header is row 1.")
    index: int | None = Field(description="Index of the prompt; null if unreadable.")
    description: str

    def __str__(self) -> str:
        known = "" if self.index is None else f" (index {self.index})"
        return f"row {self.row}{known}: {self.description}"


class JudgePrompt(Contract):
    """The judge prompt: a template, the dimension definitions, and the headings of the two lists."""

    template: str = Field(
        description="Template with the fields `{prompt}`, `{testpoint}`, `{explanation}`, `{test_explanation}`."
    )
    definitions: dict[str, str] = Field(description="Definitions by dimension, as spelled in the benchmark.")
    definitions_heading: str
    descriptions_heading: str

    def fill(self, prompt: BenchmarkPrompt) -> str:
        """Return the judge's input text for images of `prompt`, formatted as in the official script.

        Raises ValueError if the dimension of a test point has no definition.
        """
        if undefined := sorted({point.name for point in prompt.points} - self.definitions.keys()):
            listed = ", ".join(map(repr, undefined))
            raise ValueError(f"The judge's prompt does not define these dimensions of prompt {prompt.index}: {listed}")
        return self.template.format(
            prompt=prompt.text,
            testpoint=[point.name for point in prompt.points],
            explanation=_quoted(self.definitions_heading, ((p.name, self.definitions[p.name]) for p in prompt.points)),
            test_explanation=_quoted(self.descriptions_heading, ((p.name, p.description) for p in prompt.points)),
        )

    @property
    def template_sha256(self) -> str:
        """SHA-256 of the template."""
        return hashlib.sha256(self.template.encode()).hexdigest()

    @property
    def definitions_sha256(self) -> str:
        """SHA-256 of the definitions and headings."""
        return fingerprint(self.model_dump(mode="json", exclude={"template"}))


class Benchmark(Contract):
    """A benchmark read from a file: prompts with test points, and optionally a judge prompt."""

    name: Name
    title: str
    language: Language
    length: Literal["short", "long"]
    file: str = Field(description="Name of the data file.")
    data_sha256: Sha256 = Field(description="SHA-256 of the data file.")
    pinned: bool = Field(description="Whether the data file is identical to the official one.")
    prompts: tuple[BenchmarkPrompt, ...] = Field(min_length=1)
    repairs: tuple[Repair, ...] = ()
    left_out: tuple[RowProblem, ...] = Field((), description="Rows of the data file that were skipped.")
    judge: JudgePrompt | None = Field(description="Judge prompt; null if the images are judged by rules.")

    @property
    def content_sha256(self) -> str:
        """SHA-256 of everything that affects scores: the prompts with their test points, and the judge prompt."""
        return fingerprint(self.model_dump(mode="json", include={"prompts", "judge"}))

    @property
    def point_count(self) -> int:
        """Total number of test points over all prompts."""
        return sum(len(prompt.points) for prompt in self.prompts)


def _quoted(heading: str, lines: Iterable[tuple[str, str]]) -> str:
    listed = "".join(f"\n{name}: {text}" for name, text in lines)
    return f"{heading}:「{listed}\n」"


def fingerprint(value: Any) -> str:
    """Return the SHA-256 of a JSON value, independent of the order of object keys."""
    text = json.dumps(value, ensure_ascii=False, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()
