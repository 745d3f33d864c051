"""A benchmark: prompts with test points, and the prompt of the judge."""

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
    """A test point: one property of a prompt's images that the judge scores.

    Its identity is its position in the prompt's list, since a prompt may have two points of one dimension.
    """

    name: str = Field(description="The dimension as the benchmark spells it.")
    dimension: str = Field(description="One of the 27 sub-dimensions, in English.")
    description: str = Field(description="The property in the prompt.")

    @property
    def primary(self) -> str:
        """One of the ten primary dimensions."""
        return primary_of(self.dimension)


class BenchmarkPrompt(Contract):
    """A prompt with its test points."""

    index: int = Field(ge=0, le=999_999, description="Number of the prompt; its image j is `INDEX_J.png`.")
    text: str
    category: str = Field(description="Theme of the prompt.")
    subcategory: str
    subject: str
    sentence_structure: str
    points: tuple[Point, ...] = Field(min_length=1)


class Repair(Contract):
    """A fault of the official data that was repaired while reading."""

    row: int = Field(description="Row of the file; the header is row 1.")
    index: int = Field(description="Number of the prompt.")
    description: str


class RowProblem(Contract):
    """A row that cannot be read."""

    row: int = Field(description="Row of the file; the header is row 1.")
    index: int | None = Field(description="Number of the prompt, if readable.")
    description: str

    def __str__(self) -> str:
        known = "" if self.index is None else f" (index {self.index})"
        return f"row {self.row}{known}: {self.description}"


class JudgePrompt(Contract):
    """The prompt of a judge: a template, the definitions of dimensions, and the headings of its two lists."""

    template: str = Field(
        description="Has the fields `{prompt}`, `{testpoint}`, `{explanation}`, `{test_explanation}`."
    )
    definitions: dict[str, str] = Field(description="By dimension, as the benchmark spells it.")
    definitions_heading: str
    descriptions_heading: str

    def fill(self, prompt: BenchmarkPrompt) -> str:
        """The text for the judge about an image of `prompt`, as in the official script.

        Raises ValueError if a test point's dimension has no definition.
        """
        if undefined := sorted({point.name for point in prompt.points} - self.definitions.keys()):
            listed = ", ".join(map(repr, undefined))
            raise ValueError(f"The judge's prompt does not define {listed}, a dimension of prompt {prompt.index}")
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
        """SHA-256 of everything except the template."""
        return fingerprint(self.model_dump(mode="json", exclude={"template"}))


class Benchmark(Contract):
    """Prompts with test points, read from a file, and the prompt of the judge, if there is one."""

    name: Name
    title: str
    language: Language
    length: Literal["short", "long"]
    file: str = Field(description="Name of the file.")
    data_sha256: Sha256 = Field(description="SHA-256 of the file.")
    pinned: bool = Field(description="Whether the file is identical to the official file.")
    prompts: tuple[BenchmarkPrompt, ...] = Field(min_length=1)
    repairs: tuple[Repair, ...] = ()
    left_out: tuple[RowProblem, ...] = Field((), description="Rows of the file that were skipped.")
    judge: JudgePrompt | None = Field(description="Prompt of the judge; null if rules judge the images.")

    @property
    def content_sha256(self) -> str:
        """SHA-256 of all that scores depend on: the prompts with their points, and the judge's prompt."""
        return fingerprint(self.model_dump(mode="json", include={"prompts", "judge"}))

    @property
    def point_count(self) -> int:
        """Number of test points of all prompts."""
        return sum(len(prompt.points) for prompt in self.prompts)


def _quoted(heading: str, lines: Iterable[tuple[str, str]]) -> str:
    listed = "".join(f"\n{name}: {text}" for name, text in lines)
    return f"{heading}:「{listed}\n」"


def fingerprint(value: Any) -> str:
    """The SHA-256 of a JSON value, independent of the order of names."""
    text = json.dumps(value, ensure_ascii=False, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()
