"""The request body of `POST /evaluations`, the input of the evaluation process, and its events."""

from typing import Annotated, Literal
from uuid import UUID

from pydantic import Field, TypeAdapter, model_validator

from service.contracts.base import DISTINCT, Contract, DisplayName, ImageOptions, Name, Record
from service.contracts.benchmarks.bundled import BUNDLED
from service.contracts.benchmarks.data import Benchmark
from service.contracts.benchmarks.judge_answers import Failure
from service.contracts.catalog import JudgeEntry
from service.contracts.events import Failed, Finished, Progress, Started, Timed

SEED = 3407
"""Seed of the first image of each prompt in the UniGenBench++ scripts."""
IMAGES = "images"
"""Name of the image subdirectory in an attempt's directory."""


class EvaluationSpec(ImageOptions):
    """The evaluation of a model or checkpoint on a benchmark."""

    name: DisplayName = Field("", description="Display name, which is also used in leaderboards.")
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
    """Identifies an image within an evaluation."""

    index: int = Field(ge=0, description="Index of the prompt in the benchmark.")
    image_index: int = Field(ge=0, description="Index among the images of the prompt.")

    @property
    def file(self) -> str:
        """The file name in the format of the official scripts."""
        return f"{self.index}_{self.image_index}.png"


class PendingImage(ImageName):
    """An image of an earlier attempt for which the judge has not given a final answer."""

    requests: int = Field(0, description="Number of requests sent to the judge for this image.")


class EvaluationJob(Contract):
    """The input of the evaluation process."""

    spec: EvaluationSpec
    benchmark: Benchmark = Field(description="The benchmark, reduced to the evaluated prompts.")
    judge: JudgeEntry | None
    pending: tuple[PendingImage, ...] = Field(
        description="Images without a final answer. Missing files are generated again."
    )
    done: tuple[ImageName, ...] = Field(description="Finished images.")

    @property
    def total_images(self) -> int:
        """Total number of images in the evaluation."""
        return len(self.benchmark.prompts) * self.spec.num_images


class ImageGenerated(Timed):
    """Event: an image was generated and scored by the rewards."""

    type: Literal["image"] = "image"
    index: int
    image_index: int
    seed: int
    rewards: dict[str, float | None] = Field({}, description="Values by reward; null: the reward failed.")
    sha256: str = Field(description="Hash of `images/INDEX_IMAGE.png` in the attempt's directory.")
    size: int = Field(description="File size in bytes.")


class ImageAnswered(Timed):
    """Event: a request to the judge about an image succeeded or failed."""

    type: Literal["answer"] = "answer"
    index: int
    image_index: int
    number: int = Field(ge=1, description="Number of the request for this image; only the newest answer is used.")
    text: str | None = Field(description="Text of the judge's answer.")
    scores: tuple[int, ...] | None
    failure: Failure | None
    error: str = Field("", description="Reason why there is no text.")
    seconds: float


EvaluationEvent = Annotated[
    Started | Progress | ImageGenerated | ImageAnswered | Finished | Failed, Field(discriminator="type")
]
EvaluationEventLine: TypeAdapter[EvaluationEvent] = TypeAdapter(EvaluationEvent)
"""Parser for one line of an evaluation's `events.jsonl`."""


class RewardMean(Record):
    """Mean of a reward over the images of an evaluation."""

    mean: float | None = Field(description="Mean over images; null if the reward failed for all of them.")
    interval95: tuple[float, float] | None = Field(None, description="95% bootstrap interval over prompts.")
    images: int = Field(description="Number of images with a value.")
    failures: int = Field(description="Number of images for which the reward failed.")
