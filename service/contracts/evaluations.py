"""Evaluations: what a client may ask of `POST /evaluations`, what the child gets, and what it says."""

from typing import Annotated, Literal
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, model_validator

from service.contracts.base import Contract, Name
from service.contracts.benchmarks.bundled import BUNDLED
from service.contracts.benchmarks.data import Benchmark
from service.contracts.benchmarks.judging import Failure
from service.contracts.catalog import JudgeEntry
from service.contracts.events import Failed, Finished, Progress, Started, Timed

SEED = 3407
"""Of the first image of each prompt: the seed of UniGenBench++'s own scripts."""
IMAGES = "images"
"""Directory of an attempt's images, below the attempt's own."""


class EvaluationSpec(Contract):
    """One model on one benchmark. Unsaid sizes are the model's own."""

    name: str = Field("", max_length=200, pattern=r"^[^\x00]*$", description="What people and leaderboards call it.")
    model: Name = Field("shapes-flux-2", description="A model of the catalog.")
    checkpoint: Literal["base"] | UUID = Field("base", description="A checkpoint's id, or `base` for the model itself.")
    benchmark: Name = Field(BUNDLED, description="`GET /benchmarks` lists them.")
    judge: Name | None = Field("perception", description="A judge of the catalog; null: nobody judges the images.")
    rewards: tuple[Name, ...] = Field(
        (), max_length=8, description="Rewards of the catalog that every image gets, too. Distinct."
    )
    limit: Annotated[int, Field(ge=1, le=1_000_000)] | None = Field(
        None, description="So many of the benchmark's prompts, spread evenly over it; null: all."
    )
    num_images: int = Field(4, ge=1, le=16, description="Images per prompt; the official number is 4.")
    seed: int = Field(
        SEED,
        ge=0,
        le=2**63 - 65,
        description="Image j of every prompt has this seed + j, and is `INDEX_j.png`.",
    )
    steps: Annotated[int, Field(ge=1, le=200)] | None = Field(
        None, description="Denoising steps; null: the model's own."
    )
    guidance: Annotated[float, Field(ge=0, le=30)] | None = Field(None, description="Guidance; null: the model's own.")
    width: Annotated[int, Field(ge=16, le=4096, multiple_of=16)] | None = Field(None, description="In pixels.")
    height: Annotated[int, Field(ge=16, le=4096, multiple_of=16)] | None = Field(None, description="In pixels.")

    @model_validator(mode="after")
    def _measures_something(self) -> "EvaluationSpec":
        if len(set(self.rewards)) != len(self.rewards):
            raise ValueError("a reward stands more than once in `rewards`")
        if self.judge is None and not self.rewards:
            raise ValueError("nothing would be measured: name a `judge`, `rewards`, or both")
        return self


class ImageName(Contract):
    """Which image of an evaluation."""

    index: int = Field(ge=0, description="The prompt's number in the benchmark.")
    image_index: int = Field(ge=0, description="Its number among the images of the prompt.")

    @property
    def file(self) -> str:
        """The official name of its file."""
        return f"{self.index}_{self.image_index}.png"


class DrawnImage(ImageName):
    """An image that an earlier attempt drew, and that is yet to be judged."""

    asked: int = Field(0, description="How often a judge was asked about it.")


class EvaluationJob(Contract):
    """What the child is told: everything it needs, and what is left to do."""

    spec: EvaluationSpec
    benchmark: Benchmark = Field(description="With those prompts alone that are evaluated.")
    judge: JudgeEntry | None
    drawn: tuple[DrawnImage, ...] = Field(
        description="Lie in the attempt's directory of images; one that does not is drawn again."
    )
    done: tuple[ImageName, ...] = Field(description="Nothing is left to do for these.")

    @property
    def total_images(self) -> int:
        """Images in all."""
        return len(self.benchmark.prompts) * self.spec.num_images


class ImageDrawn(Timed):
    """An image was drawn, and given its rewards."""

    type: Literal["image"] = "image"
    index: int
    image_index: int
    seed: int
    rewards: dict[str, float | None] = Field({}, description="Null where a reward failed.")
    sha256: str = Field(description="Of the file, `images/INDEX_IMAGE.png` below the attempt's directory.")
    size: int = Field(description="Bytes.")


class ImageAnswered(Timed):
    """A judge was asked about an image, and has answered, or will not."""

    type: Literal["answer"] = "answer"
    index: int
    image_index: int
    number: int = Field(ge=1, description="Counts how often it was asked about this image; the newest answer counts.")
    text: str | None = Field(description="The judge's own words.")
    scores: tuple[int, ...] | None
    failure: Failure | None
    error: str = Field("", description="Why there are no words.")
    seconds: float


EvaluationEvent = Annotated[
    Started | Progress | ImageDrawn | ImageAnswered | Finished | Failed, Field(discriminator="type")
]
EvaluationEventLine: TypeAdapter[EvaluationEvent] = TypeAdapter(EvaluationEvent)
"""Reads one line of an evaluation's `events.jsonl`."""


class RewardMean(BaseModel):
    """A reward over the images of an evaluation."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    mean: float | None = Field(description="Over images; null where the reward failed for all.")
    interval95: tuple[float, float] | None = Field(None, description="95% bootstrap interval over prompts.")
    images: int = Field(description="Those that have a value.")
    failures: int = Field(description="Those for which the reward failed.")
