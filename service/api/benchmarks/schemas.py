"""Query parameters and responses of `/benchmarks`."""

from datetime import datetime
from typing import Annotated, Literal

from pydantic import BaseModel, Field

from service.contracts.benchmarks.data import BenchmarkPrompt, JudgePrompt, Repair, RowProblem
from service.contracts.benchmarks.scores import RESAMPLES, Scores
from service.http.pagination import Page, PageQuery, StrictQuery, Text

Dimensions = Annotated[
    list[Text],
    Field(
        max_length=40,
        description="Only those with a test point of one of these dimensions, primary (`Attribute`) or sub "
        "(`Attribute - Color`). Repeatable; default: all.",
    ),
]


class BootstrapQuery(StrictQuery):
    """Options for bootstrap intervals."""

    resamples: int = Field(RESAMPLES, ge=0, le=10_000, description="Bootstrap resamples; 0 disables intervals.")
    seed: int = Field(0, ge=0, le=2**31 - 1, description="Bootstrap seed.")


class BenchmarkFilters(PageQuery):
    """Query parameters of the benchmark list, which has no filters."""


class PromptFilters(PageQuery):
    """Filters for the prompts of a benchmark."""

    dimension: Dimensions = Field([])


class BenchmarkSummary(BaseModel):
    """A benchmark in a list: the newest import with the given name."""

    name: str
    title: str
    language: str = Field(description="`en` or `zh`.")
    length: str = Field(description="`short` or `long` prompts.")
    prompt_count: int
    point_count: int = Field(description="Total number of test points.")
    file: str = Field(description="Name of the imported file.")
    data_sha256: str = Field(description="SHA-256 of that file.")
    pinned: bool = Field(description="Whether the file is identical to the official file.")
    content_sha256: str = Field(description="SHA-256 of prompts, test points and judge prompt.")
    template_sha256: str | None = Field(description="SHA-256 of the judge's template; null if rules judge the images.")
    definitions_sha256: str | None = Field(description="SHA-256 of the definitions and headings in the template.")
    imported_at: datetime


class BenchmarkView(BenchmarkSummary):
    """All properties of a benchmark, with a page of its prompts."""

    repairs: list[Repair] = Field(description="Faults in the file that were repaired.")
    left_out: list[RowProblem] = Field(description="Rows of the file that were skipped.")
    dimensions: dict[str, int] = Field(description="Number of test points by sub-dimension.")
    judge: JudgePrompt | None = Field(description="Prompt of the judge; null if rules judge the images.")
    prompts: Page[BenchmarkPrompt] = Field(description="Sorted by index.")


class RescoreQuery(BootstrapQuery):
    """Options for scoring a result file."""

    points: bool = Field(False, description="Include the counts of every test point.")


class Rescore(BaseModel):
    """The scores of a result file."""

    benchmark: str = Field(examples=["unigenbench-en"])
    data_sha256: str = Field(description="SHA-256 of the benchmark's file.")
    content_sha256: str
    file_sha256: str = Field(description="SHA-256 of the result file.")
    form: Literal["answers", "counts"] = Field(
        description="`answers` for a file with one answer per image, `counts` for a summary, which gives no intervals."
    )
    scores: Scores
