"""The request of `POST /evaluations`, the job of the evaluation process, and its events."""

from typing import Annotated, Literal
from uuid import UUID

from pydantic import Field, TypeAdapter, model_validator

from service.contracts.base import DISTINCT, Contract, DisplayName, ImageOptions, Name, Record
from service.contracts.benchmarks.bundled import BUNDLED
from service.contracts.benchmarks.data import Benchmark
from service.contracts.benchmarks.judging import Failure
from service.contracts.catalog import JudgeEntry
from service.contracts.events import Failed, Finished, Progress, Started, Timed

SEED = 3407
"""Seed of the first image of each prompt in the scripts of UniGenBench++."""
IMAGES = "images"
"""Name of the directory of images in the directory of an attempt."""


class EvaluationSpec(ImageOptions):
    """A model or checkpoint on a benchmark."""

    name: DisplayName = Field("", description="Display name, also in leaderboards.")
    model: Name = Field("shapes-flux-2", description="A model of the catalog.")
    checkpoint: Literal["base"] | UUID = Field("base", description="A checkpoint id, or `base` for the base model.")
    benchmark: Name = Field(BUNDLED, description="A benchmark; `GET /benchmarks` lists them.")
    judge: Name | None = Field("perception", description="A judge of the catalog; null: no judge.")
    rewards: Annotated[tuple[Name, ...], DISTINCT] = Field(
        (), max_length=8, description="Distinct rewards of the catalog that also score every image."
    )
    limit: Annotated[int, Field(ge=1, le=1_000_000)] | None = Field(
        None, description="Number of the benchmark's prompts to evaluate, spaced evenly; null: all."
    )
    num_images: int = Field(4, ge=1, le=16, description="Images per prompt; the official number is 4.")
    seed: int = Field(
        SEED,
        ge=0,
        le=2**63 - 65,
        description="Random seed. Image j of every prompt has seed + j and the file name `INDEX_j.png`.",
    )

    @model_validator(mode="after")
    def _check_measures(self) -> "EvaluationSpec":
        if self.judge is None and not self.rewards:
            raise ValueError("nothing to measure; give `judge`, `rewards` or both")
        return self


class ImageName(Contract):
    """The position of an image in an evaluation."""

    index: int = Field(ge=0, description="Index of the prompt in the benchmark.")
    image_index: int = Field(ge=0, description="Index among the images of the prompt.")

    @property
    def file(self) -> str:
        """The official file name."""
        return f"{self.index}_{self.image_index}.png"


class DrawnImage(ImageName):
    """An image of an earlier attempt that has no final answer of the judge."""

    asked: int = Field(0, description="Number of requests to the judge.")


class EvaluationJob(Contract):
    """The input of the evaluation process."""

    spec: EvaluationSpec
    benchmark: Benchmark = Field(description="The benchmark, reduced to the evaluated prompts.")
    judge: JudgeEntry | None
    drawn: tuple[DrawnImage, ...] = Field(description="Images without a final answer; lost files are regenerated.")
    done: tuple[ImageName, ...] = Field(description="Finished images.")

    @property
    def total_images(self) -> int:
        """Number of images."""
        return len(self.benchmark.prompts) * self.spec.num_images


class ImageDrawn(Timed):
    """An image was generated and scored by the rewards."""

    type: Literal["image"] = "image"
    index: int
    image_index: int
    seed: int
    rewards: dict[str, float | None] = Field({}, description="Values by reward; null: the reward failed.")
    sha256: str = Field(description="Hash of `images/INDEX_IMAGE.png` in the attempt's directory.")
    size: int = Field(description="Bytes.")


class ImageAnswered(Timed):
    """A request to a judge about an image has succeeded or failed."""

    type: Literal["answer"] = "answer"
    index: int
    image_index: int
    number: int = Field(ge=1, description="Number of the request about this image; the newest answer counts.")
    text: str | None = Field(description="The text of the judge's answer.")
    scores: tuple[int, ...] | None
    failure: Failure | None
    error: str = Field("", description="Why there is no text.")
    seconds: float


EvaluationEvent = Annotated[
    Started | Progress | ImageDrawn | ImageAnswered | Finished | Failed, Field(discriminator="type")
]
EvaluationEventLine: TypeAdapter[EvaluationEvent] = TypeAdapter(EvaluationEvent)
"""Parser for a line of an evaluation's `events.jsonl`."""


class RewardMean(Record):
    """The mean of a reward over the images of an evaluation."""

    mean: float | None = Field(description="Mean over images; null if the reward failed for all of them.")
    interval95: tuple[float, float] | None = Field(None, description="95% bootstrap interval over prompts.")
    images: int = Field(description="Number of images with a value.")
    failures: int = Field(description="Number of images for which the reward failed.")
