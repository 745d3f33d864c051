"""Query parameters and responses of `/evaluations`."""

import uuid
from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field, model_validator

from service.api.benchmarks.schemas import Dimensions
from service.contracts.benchmarks.judge_answers import Failure
from service.contracts.benchmarks.scores import Difference, ScoreDifferences, Scores
from service.contracts.evaluations import RewardMean
from service.contracts.status import JobStatus
from service.http.pagination import PageQuery, StrictQuery, Text
from service.jobs.views import JobFilters, JobView

MAX_PROMPTS, MAX_IMAGES, MAX_OTHERS = 50, 16, 7
_INDEX = Field(None, ge=0, le=999_999, description="Only results for the prompt with this index.")


class EvaluationFilters(JobFilters):
    """Filters for evaluations. An evaluation must match all of them."""

    model: Text | None = Field(None, description="Only evaluations of this model.")
    checkpoint: uuid.UUID | None = Field(None, description="Only evaluations of this checkpoint.")
    benchmark: Text | None = Field(None, description="Only evaluations on this benchmark.")


class EvaluationSummary(JobView):
    """An evaluation in a list."""

    name: str
    model: str = Field(examples=["shapes-flux"])
    checkpoint: str = Field(description="Id of the checkpoint, or `base`.", examples=["base"])
    benchmark: str = Field(examples=["unigenbench-en"])
    judge: str | None = Field(description="Identity of the judge. Scores of different judges are not comparable.")
    total_images: int
    overall: float | None = Field(description="Mean of the ten primary accuracies; null until there are scores.")


class EvaluationView(EvaluationSummary):
    """All properties of an evaluation."""

    spec: dict[str, Any] = Field(description="The request, with defaults filled in.")
    prompts: int = Field(description="Number of evaluated prompts.")
    benchmark_prompts: int = Field(description="Number of prompts in the benchmark.")
    data_sha256: str = Field(description="SHA-256 of the benchmark's file.")
    content_sha256: str = Field(description="SHA-256 of prompts, test points and judge prompt.")
    template_sha256: str | None = Field(description="SHA-256 of the judge's template; null if rules judge the images.")
    definitions_sha256: str | None = Field(description="SHA-256 of the definitions in the judge's prompt.")
    queue_position: int | None = Field(description="Position in the queue, from 1; null if it is not queued.")
    eta_seconds: float | None = Field(description="Estimated remaining seconds; null before the first estimate.")
    seconds_used: float = Field(description="Total duration of ended attempts in seconds.")
    images: int = Field(description="Number of images generated so far.")
    judged: int = Field(description="Number of images with a readable answer.")
    failed: int = Field(description="Number of images whose newest answer is unreadable. Resuming judges them again.")
    scores: Scores | None = Field(description="Scores when the evaluation last ended; null if it has not ended yet.")
    rewards: dict[str, RewardMean] = Field(description="Mean rewards when the evaluation last ended, by name.")


class AnswerFilters(PageQuery):
    """Filters for answers. An answer must match all of them."""

    dimension: Dimensions = Field([])
    index: int | None = _INDEX
    met: bool | None = Field(
        None, description="Only answers with a test point (of `dimension`, if given) that is met (true) or not (false)."
    )
    failure: Failure | None = Field(None, description="Only unreadable answers with this reason.")
    tries: Literal["newest", "all"] = Field(
        "newest", description="`newest`: only the answer that counts for each image; `all`: earlier answers as well."
    )


class JudgedPoint(BaseModel):
    """A test point and its score for an image."""

    position: int = Field(description="Position in the prompt's list of test points, from 0.")
    name: str = Field(description="The dimension as the benchmark spells it.")
    dimension: str = Field(description="One of the 27 sub-dimensions, in English.")
    description: str = Field(description="The property that the prompt asks for.")
    score: int | None = Field(description="1: met, 0: not met; null if the answer is unreadable.")


class _OfImage(BaseModel):
    index: int = Field(description="Index of the prompt in the benchmark.")
    image_index: int = Field(description="Index of the image among those of the prompt, from 0.")
    name: str = Field(description="Official name of the image, `INDEX_IMAGE.png`.")
    prompt: str = Field(examples=["a red circle left of a blue square"])


class AnswerView(_OfImage):
    """A judge's answer for an image."""

    number: int = Field(description="Number of the answer for this image, from 1. Only the newest answer counts.")
    points: list[JudgedPoint]
    text: str | None = Field(description="Text of the answer; null if there is none.")
    failure: Failure | None = Field(description="Why there are no scores; null if the answer is readable.")
    error: str = Field(description="The reason for a missing text; empty if the text is present.")
    seconds: float = Field(description="Duration of the request to the judge in seconds.")
    answered_at: datetime
    image_url: str = Field(description="Path of the PNG.")


class ImageFilters(PageQuery):
    """Filters for images."""

    index: int | None = _INDEX


class EvaluationImageView(_OfImage):
    """An image of an evaluation."""

    seed: int
    rewards: dict[str, float | None] = Field(description="Rewards by name; null if a reward failed.")
    sha256: str
    size: int = Field(description="Size of the PNG in bytes.")
    url: str = Field(description="Path of the PNG.")


class Compared(BaseModel):
    """One of the two evaluations in a comparison."""

    id: uuid.UUID
    label: str = Field(description="Name of the evaluation, or its model and checkpoint if it has no name.")
    status: JobStatus
    model: str = Field(examples=["shapes-flux"])
    checkpoint: str = Field(description="Id of the checkpoint, or `base`.", examples=["base"])


class EvaluationComparison(BaseModel):
    """The differences between two evaluations on the same benchmark, as the second minus the first."""

    first: Compared
    second: Compared
    benchmark: str = Field(examples=["unigenbench-en"])
    content_sha256: str = Field(description="SHA-256 of prompts, test points and judge prompt.")
    judge: str | None = Field(description="The common judge; null if one of the evaluations has no judge.")
    scores: ScoreDifferences | None = Field(
        description="Differences in the shares of test points met; null if one of the evaluations has no judge."
    )
    rewards: dict[str, Difference] = Field(
        description="Differences in common rewards; `wins` counts prompts with a greater mean in the second."
    )
    warnings: list[str] = Field(description="Other differences between the two, besides the checkpoint.")


class GalleryQuery(StrictQuery):
    """The images to show in a gallery."""

    others: list[uuid.UUID] = Field(
        [],
        alias="with",
        max_length=MAX_OTHERS,
        description="Other evaluations on the same benchmark, each shown in its own column; repeatable.",
        examples=[[]],
    )
    dimension: Dimensions = Field([])
    index: list[Annotated[int, Field(ge=0, le=999_999)]] = Field(
        [],
        max_length=MAX_PROMPTS,
        description="Prompt indices; repeatable. Default: a random sample of `count` prompts.",
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
