"""Queries and responses of `/evaluations`."""

import uuid
from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from service.contracts.benchmarks.judging import Failure
from service.contracts.benchmarks.scores import RESAMPLES, Difference, ScoreDifferences, Scores
from service.contracts.evaluations import RewardMean
from service.contracts.status import JobStatus
from service.http.pagination import PageQuery, Text
from service.jobs.views import JobFilters, JobView

MAX_PROMPTS, MAX_IMAGES, MAX_OTHERS = 50, 16, 7
_INDEX = Field(None, ge=0, le=999_999, description="Only of the prompt with this number.")
Dimensions = Annotated[
    list[Text],
    Field(
        max_length=40,
        description="Only with a test point of one of these dimensions, primary (`Attribute`) or sub "
        "(`Attribute - Color`). Repeatable; default: all.",
    ),
]


class EvaluationFilters(JobFilters):
    """Filters of evaluations; all must match."""

    model: Text | None = Field(None, description="Only of this model.")
    checkpoint: uuid.UUID | None = Field(None, description="Only of this checkpoint.")
    benchmark: Text | None = Field(None, description="Only on this benchmark.")


class EvaluationSummary(JobView):
    """An evaluation in a list."""

    name: str
    model: str = Field(examples=["shapes-flux"])
    checkpoint: str = Field(description="Id of the checkpoint, or `base`.", examples=["base"])
    benchmark: str = Field(examples=["unigenbench-en"])
    judge: str | None = Field(description="Identity of the judge. Scores of different judges are not comparable.")
    total_images: int
    overall: float | None = Field(description="Mean of the ten primary accuracies; null before there are scores.")


class EvaluationView(EvaluationSummary):
    """An evaluation in full."""

    spec: dict[str, Any] = Field(description="The request, with defaults filled in.")
    prompts: int = Field(description="Number of evaluated prompts.")
    benchmark_prompts: int = Field(description="Number of prompts in the benchmark.")
    data_sha256: str = Field(description="SHA-256 of the benchmark's file.")
    content_sha256: str = Field(description="SHA-256 of prompts, test points and judge prompt.")
    template_sha256: str | None = Field(description="SHA-256 of the judge's template; null if rules judge the images.")
    definitions_sha256: str | None = Field(description="SHA-256 of the definitions in the judge's prompt.")
    queue_position: int | None = Field(description="Position in the queue, from 1; null if it is not queued.")
    eta_seconds: float | None = Field(description="Estimated seconds to the end; null before the first estimate.")
    seconds_used: float = Field(description="Seconds of ended attempts.")
    images: int = Field(description="Number of images generated so far.")
    judged: int = Field(description="Number of images with a readable answer.")
    failed: int = Field(description="Number of images with an unreadable newest answer. Resuming judges them again.")
    scores: Scores | None = Field(description="Scores when the evaluation last ended; null before.")
    rewards: dict[str, RewardMean] = Field(description="Mean rewards when the evaluation last ended, by name.")


class AnswerFilters(PageQuery):
    """Filters of answers; all must match."""

    dimension: Dimensions = Field([])
    index: int | None = _INDEX
    met: bool | None = Field(
        None, description="Only with a test point (of `dimension`, if given) that is met (true) or not met (false)."
    )
    failure: Failure | None = Field(None, description="Only unreadable answers with this reason.")
    tries: Literal["newest", "all"] = Field(
        "newest", description="`newest`: the answer on each image that counts; `all`: earlier answers too."
    )


class JudgedPoint(BaseModel):
    """A test point of an image with its score."""

    position: int = Field(description="Position in the prompt's list of test points, from 0.")
    name: str = Field(description="The dimension as the benchmark spells it.")
    dimension: str = Field(description="One of the 27 sub-dimensions, in English.")
    description: str = Field(description="The property in the prompt.")
    score: int | None = Field(description="1: met, 0: not met; null if the answer is unreadable.")


class _OfImage(BaseModel):
    index: int = Field(description="Number of the prompt in the benchmark.")
    image_index: int = Field(description="Number of the image among those of the prompt.")
    name: str = Field(description="Official name of the image, `INDEX_IMAGE.png`.")
    prompt: str = Field(examples=["a red circle left of a blue square"])


class AnswerView(_OfImage):
    """A judge's answer on an image."""

    number: int = Field(description="Number of the answer on this image, from 1; the newest counts.")
    points: list[JudgedPoint]
    text: str | None = Field(description="Text of the answer; null if there is none.")
    failure: Failure | None = Field(description="Why there are no scores.")
    error: str = Field(description="Why there is no text.")
    seconds: float = Field(description="Duration of the request to the judge.")
    answered_at: datetime
    image_url: str = Field(description="Path of the PNG.")


class ImageFilters(PageQuery):
    """Filters of images."""

    index: int | None = _INDEX


class EvaluationImageView(_OfImage):
    """An image of an evaluation."""

    seed: int
    rewards: dict[str, float | None] = Field(description="By name; null if the reward failed.")
    sha256: str
    size: int = Field(description="Size of the PNG in bytes.")
    url: str = Field(description="Path of the PNG.")


class CompareQuery(BaseModel):
    """Options of a comparison of two evaluations."""

    model_config = ConfigDict(extra="forbid")

    resamples: int = Field(RESAMPLES, ge=0, le=10_000, description="Bootstrap resamples; 0: no intervals.")
    seed: int = Field(0, ge=0, le=2**31 - 1, description="Bootstrap seed.")


class Compared(BaseModel):
    """One side of a comparison."""

    id: uuid.UUID
    label: str = Field(description="Name, or model and checkpoint.")
    status: JobStatus
    model: str = Field(examples=["shapes-flux"])
    checkpoint: str = Field(description="Id of the checkpoint, or `base`.", examples=["base"])


class EvaluationComparison(BaseModel):
    """Two evaluations of one benchmark, prompt by prompt: second minus first."""

    first: Compared
    second: Compared
    benchmark: str = Field(examples=["unigenbench-en"])
    content_sha256: str = Field(description="SHA-256 of prompts, test points and judge prompt.")
    judge: str | None = Field(description="Judge of both; null if one of them has no judge.")
    scores: ScoreDifferences | None = Field(description="Shares of test points met; null if one of them has no judge.")
    rewards: dict[str, Difference] = Field(
        description="Rewards of both, over images; `wins` counts prompts with a greater mean in the second."
    )
    warnings: list[str] = Field(description="Other differences between the two, besides the checkpoint.")


class GalleryQuery(BaseModel):
    """Selection of a gallery's images."""

    model_config = ConfigDict(extra="forbid")

    others: list[uuid.UUID] = Field(
        [],
        alias="with",
        max_length=MAX_OTHERS,
        description="Other evaluations of the same benchmark, each in a column; repeatable.",
        examples=[[]],
    )
    dimension: Dimensions = Field([])
    index: list[Annotated[int, Field(ge=0, le=999_999)]] = Field(
        [],
        max_length=MAX_PROMPTS,
        description="Numbers of the prompts; repeatable. Default: a random sample of `count` prompts.",
    )
    count: int = Field(4, ge=1, le=MAX_PROMPTS, description="Size of the random sample of prompts.")
    seed: int = Field(0, ge=0, le=2**31 - 1, description="Seed of the random sample.")
    images: int | None = Field(
        None,
        ge=1,
        le=MAX_IMAGES,
        description="Images per prompt; default: up to 4 for a single evaluation, 1 for several.",
    )

    @model_validator(mode="after")
    def _check_others(self) -> "GalleryQuery":
        if len(set(self.others)) != len(self.others):
            raise ValueError("Duplicate evaluation in `with`; list each once")
        return self
