"""How benchmarks are asked for and shown, and how result files are scored."""

from datetime import datetime
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from service.contracts.benchmarks.data import BenchmarkPrompt, Repair, RowProblem
from service.contracts.benchmarks.scores import RESAMPLES, Scores
from service.http import openapi_examples
from service.http.pagination import Page, PageQuery, Text


class BenchmarkFilters(PageQuery):
    """Which page of the list."""


class PromptFilters(PageQuery):
    """Which prompts of a benchmark to show."""

    dimension: list[Text] = Field(
        [],
        max_length=40,
        description="With a test point of one of these dimensions, primary (`Attribute`) or sub (`Attribute - Color`). "
        "Repeatable; unset: all.",
    )


class BenchmarkSummary(BaseModel):
    """A benchmark as lists show it: the newest import under its name."""

    model_config = ConfigDict(json_schema_extra=openapi_examples.example(openapi_examples.BENCHMARK_SUMMARY))

    name: str
    title: str
    language: str = Field(description="`en` or `zh`.")
    length: str = Field(description="`short` or `long` prompts.")
    prompt_count: int
    point_count: int = Field(description="Test points of all prompts.")
    file: str = Field(description="The file it was read from.")
    data_sha256: str = Field(description="Of that file.")
    pinned: bool = Field(description="Whether the file is, byte for byte, the official one.")
    content_sha256: str = Field(description="Of prompts, test points and the judge's words.")
    template_sha256: str | None = Field(description="Of the judge's template; null where rules judge.")
    definitions_sha256: str | None = Field(description="Of the definitions and headings that fill it.")
    imported_at: datetime


class JudgeWordsView(BaseModel):
    """What a judge is told."""

    template: str
    definitions: dict[str, str] = Field(description="By dimension, as the benchmark spells it.")
    definitions_heading: str
    descriptions_heading: str


class BenchmarkView(BenchmarkSummary):
    """A benchmark in full, with a page of its prompts."""

    model_config = ConfigDict(json_schema_extra=openapi_examples.example(openapi_examples.BENCHMARK))

    repairs: list[Repair] = Field(description="Faults of the file that were mended.")
    left_out: list[RowProblem] = Field(description="Rows of the file that were not taken.")
    dimensions: dict[str, int] = Field(description="Test points by sub-dimension.")
    judge: JudgeWordsView | None = Field(description="Null where no judge is asked, for rules decide.")
    prompts: Page[BenchmarkPrompt] = Field(description="In the order of their numbers.")


class RescoreQuery(BaseModel):
    """How a result file is scored."""

    model_config = ConfigDict(extra="forbid")

    points: bool = Field(False, description="Whether to tell every test point.")
    resamples: int = Field(RESAMPLES, ge=0, le=10_000, description="Of the bootstrap; 0: no intervals.")
    seed: int = Field(0, ge=0, le=2**31 - 1, description="Of the bootstrap.")


class Rescore(BaseModel):
    """The scores of a result file."""

    model_config = ConfigDict(json_schema_extra=openapi_examples.example(openapi_examples.RESCORE))

    benchmark: str
    data_sha256: str = Field(description="Of the benchmark's data.")
    content_sha256: str
    file_sha256: str = Field(description="Of the result file.")
    form: Literal["answers", "counts"] = Field(
        description="Whether the file has answers, or only the counts of a summary: then there are no intervals."
    )
    scores: Scores
