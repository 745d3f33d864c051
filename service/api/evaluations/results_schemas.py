"""How the findings of evaluations are asked for and shown."""

import uuid
from datetime import datetime
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from service.contracts.benchmarks.judging import Failure
from service.contracts.benchmarks.scores import RESAMPLES, Difference, ScoreDifferences
from service.contracts.status import JobStatus
from service.http import openapi_examples
from service.http.pagination import PageQuery, Text

MOST_PROMPTS, MOST_IMAGES, MOST_OTHERS = 50, 16, 7
_INDEX = Field(None, ge=0, le=999_999, description="Of this prompt, by its number in the benchmark.")
Dimensions = Annotated[
    list[Text],
    Field(
        max_length=40,
        description="With a test point of one of these dimensions, primary (`Attribute`) or sub (`Attribute - Color`). "
        "Repeatable; unset: all.",
    ),
]


class AnswerFilters(PageQuery):
    """Which answers to list; everything must hold together."""

    dimension: Dimensions = Field([])
    index: int | None = _INDEX
    met: bool | None = Field(
        None, description="With a test point, one of `dimension` where that is said, that was met, or was not."
    )
    failure: Failure | None = Field(None, description="That could not be read, for this reason.")
    tries: Literal["newest", "all"] = Field(
        "newest", description="The newest answer on each image, which counts, or earlier ones too."
    )


class JudgedPoint(BaseModel):
    """A test point of an image."""

    place: int = Field(description="In the prompt's list, from 0.")
    name: str = Field(description="The dimension as the benchmark spells it.")
    dimension: str = Field(description="One of the 27 sub-dimensions, in English.")
    description: str = Field(description="What in the prompt is meant.")
    score: int | None = Field(description="1: met, 0: not; null where the answer could not be read.")


class AnswerView(BaseModel):
    """What a judge said of an image."""

    model_config = ConfigDict(json_schema_extra=openapi_examples.example(openapi_examples.ANSWER))

    index: int = Field(description="The prompt's number in the benchmark.")
    image_index: int = Field(description="The image's number among those of the prompt.")
    number: int = Field(description="Counts how often the judge was asked about the image; the newest answer counts.")
    name: str = Field(description="The image's official name, `INDEX_IMAGE.png`.")
    prompt: str
    points: list[JudgedPoint]
    text: str | None = Field(description="The judge's own words; null where there are none.")
    failure: Failure | None = Field(description="Why it has no scores.")
    error: str = Field(description="Why there are no words.")
    seconds: float = Field(description="That the answer took.")
    answered_at: datetime
    image_url: str = Field(description="Where the PNG is.")


class ImageFilters(PageQuery):
    """Which images to list."""

    index: int | None = _INDEX


class EvaluationImageView(BaseModel):
    """An image that an evaluation drew."""

    model_config = ConfigDict(json_schema_extra=openapi_examples.example(openapi_examples.IMAGE))

    index: int = Field(description="The prompt's number in the benchmark.")
    image_index: int = Field(description="Its number among the images of the prompt.")
    name: str = Field(description="Its official name, `INDEX_IMAGE.png`.")
    seed: int
    prompt: str
    rewards: dict[str, float | None] = Field(description="By name; null: the reward failed.")
    sha256: str
    size: int = Field(description="Bytes of the PNG.")
    url: str = Field(description="Where the PNG is.")


class CompareQuery(BaseModel):
    """How two evaluations are compared."""

    model_config = ConfigDict(extra="forbid")

    resamples: int = Field(RESAMPLES, ge=0, le=10_000, description="Of the bootstrap; 0: no intervals.")
    seed: int = Field(0, ge=0, le=2**31 - 1, description="Of the bootstrap.")


class Compared(BaseModel):
    """One side of a comparison."""

    id: uuid.UUID
    label: str = Field(description="Its name, else its model and checkpoint.")
    status: JobStatus
    model: str
    checkpoint: str = Field(description="A checkpoint's id, or `base`.")


class EvaluationComparison(BaseModel):
    """Two evaluations of one benchmark, prompt by prompt: the second less the first."""

    model_config = ConfigDict(json_schema_extra=openapi_examples.example(openapi_examples.EVALUATION_COMPARISON))

    first: Compared
    second: Compared
    benchmark: str
    content_sha256: str = Field(description="Of its prompts, test points and the judge's words.")
    judge: str | None = Field(description="Who judged both; null where nobody judged one of them.")
    scores: ScoreDifferences | None = Field(description="Test points met; null where nobody judged one of the two.")
    rewards: dict[str, Difference] = Field(
        description="Rewards that both have, over images; `wins` counts prompts whose mean is greater in the second."
    )
    warnings: list[str] = Field(description="What else differs between the two, beside the checkpoint.")


class GalleryQuery(BaseModel):
    """Which images a gallery shows."""

    model_config = ConfigDict(extra="forbid")

    others: list[uuid.UUID] = Field(
        [],
        alias="with",
        max_length=MOST_OTHERS,
        description="Evaluations of the same benchmark, to be shown beside it; repeatable.",
        examples=[[]],
    )
    dimension: Dimensions = Field([])
    index: list[Annotated[int, Field(ge=0, le=999_999)]] = Field(
        [],
        max_length=MOST_PROMPTS,
        description="These prompts, by their numbers; repeatable. Unset: `count` prompts are drawn by lot.",
    )
    count: int = Field(4, ge=1, le=MOST_PROMPTS, description="Prompts that are drawn by lot.")
    seed: int = Field(0, ge=0, le=2**31 - 1, description="Of the lot: the same prompts each time.")
    images: int | None = Field(
        None,
        ge=1,
        le=MOST_IMAGES,
        description="Of each prompt; unset: up to 4 of an evaluation alone, 1 where there are others beside it.",
    )

    @model_validator(mode="after")
    def _idempotency(self) -> "GalleryQuery":
        if len(set(self.others)) != len(self.others):
            raise ValueError("an evaluation stands more than once in `with`; each is shown once")
        return self
