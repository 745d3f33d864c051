"""A benchmark: prompts, what each image of them is asked for, and the words in which a judge is asked."""

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
    """A test point: one thing that an image of the prompt is judged on. It is known by its place in the prompt's list:
    a prompt may have two of the same dimension."""

    name: str = Field(description="The dimension as the benchmark spells it, for the judge.")
    dimension: str = Field(description="One of the 27 sub-dimensions, in English.")
    description: str = Field(description="What in the prompt is meant.")

    @property
    def primary(self) -> str:
        """One of the ten primary dimensions."""
        return primary_of(self.dimension)


class BenchmarkPrompt(Contract):
    """A prompt with its test points."""

    index: int = Field(ge=0, le=999_999, description="Its number in the benchmark; image j of it is `INDEX_J.png`.")
    text: str
    category: str = Field(description="The prompt's theme.")
    subcategory: str
    subject: str
    sentence_structure: str
    points: tuple[Point, ...] = Field(min_length=1)


class Repair(Contract):
    """A fault of the official data that was mended while reading."""

    row: int = Field(description="Row of the file; the heading is row 1.")
    index: int = Field(description="The prompt's number.")
    description: str


class RowProblem(Contract):
    """A row that cannot be taken as it is."""

    row: int = Field(description="Row of the file, counting from 1; the heading is row 1.")
    index: int | None = Field(description="The prompt's number, where it could be read.")
    description: str

    def __str__(self) -> str:
        known = "" if self.index is None else f" (index {self.index})"
        return f"row {self.row}{known}: {self.description}"


class JudgeWords(Contract):
    """What a judge is told: a template, the dimensions' definitions, and the headings of its two lists."""

    template: str = Field(
        description="With the fields `{prompt}`, `{testpoint}`, `{explanation}`, `{test_explanation}`."
    )
    definitions: dict[str, str] = Field(description="By dimension, as the benchmark spells it.")
    definitions_heading: str
    descriptions_heading: str

    def fill(self, prompt: BenchmarkPrompt) -> str:
        """What a judge is asked about an image of `prompt`, as the official script puts it.

        ValueError where a test point's dimension has no definition.
        """
        if undefined := sorted({point.name for point in prompt.points} - self.definitions.keys()):
            listed = ", ".join(map(repr, undefined))
            raise ValueError(f"the judge's words do not define {listed}, which prompt {prompt.index} is judged on")
        return self.template.format(
            prompt=prompt.text,
            testpoint=[point.name for point in prompt.points],
            explanation=_quoted(self.definitions_heading, ((p.name, self.definitions[p.name]) for p in prompt.points)),
            test_explanation=_quoted(self.descriptions_heading, ((p.name, p.description) for p in prompt.points)),
        )

    @property
    def template_sha256(self) -> str:
        """Of the template's UTF-8 text."""
        return hashlib.sha256(self.template.encode()).hexdigest()

    @property
    def definitions_sha256(self) -> str:
        """Of everything but the template."""
        return fingerprint(self.model_dump(mode="json", exclude={"template"}))


class Benchmark(Contract):
    """A set of prompts with test points, as it was read from a file, and the judge's words for it, if it has any."""

    name: Name
    title: str
    language: Language
    length: Literal["short", "long"]
    file: str = Field(description="The file's name.")
    data_sha256: Sha256 = Field(description="Of the file.")
    pinned: bool = Field(description="Whether the file is, byte for byte, the official one that this version knows.")
    prompts: tuple[BenchmarkPrompt, ...] = Field(min_length=1)
    repairs: tuple[Repair, ...] = ()
    left_out: tuple[RowProblem, ...] = Field((), description="Rows of the file that were not taken.")
    judge: JudgeWords | None = Field(description="Null: nobody is asked, for rules decide.")

    @property
    def content_sha256(self) -> str:
        """Of all that scores depend on: the prompts with their points, and the judge's words."""
        return fingerprint(self.model_dump(mode="json", include={"prompts", "judge"}))

    @property
    def point_count(self) -> int:
        """Test points of all prompts."""
        return sum(len(prompt.points) for prompt in self.prompts)


def _quoted(heading: str, lines: Iterable[tuple[str, str]]) -> str:
    listed = "".join(f"\n{name}: {text}" for name, text in lines)
    return f"{heading}:「{listed}\n」"


def fingerprint(value: Any) -> str:
    """The SHA-256 of a JSON value, whatever order its names are in."""
    text = json.dumps(value, ensure_ascii=False, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()
