"""Views of scores."""

from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field

from service.contracts.scores import RewardValue, RewardVersion
from service.jobs.views import JobView


class ScoreSummary(JobView):
    """A score as listed."""

    rewards: list[str] = Field(description="Names of the rewards.", examples=[["clip_score"]])
    generation: UUID | None = Field(description="The generation of the images; null for images of the request.")
    total_images: int


class ScoredImage(BaseModel):
    """An image and its rewards."""

    model_config = ConfigDict(from_attributes=True)

    number: int = Field(description="Its index in the request, or its number in the generation.")
    prompt: str = Field(examples=["a red circle left of a blue square"])
    width: int
    height: int
    sha256: str = Field(description="SHA-256 of the RGB PNG that is scored.")
    values: list[RewardValue] | None = Field(description="The value of each reward; null until the image is scored.")


class ScoreView(JobView):
    """A score in full."""

    queue_position: int | None = Field(description="1: claimed next; null for a score that is not waiting.")
    rewards: list[str] = Field(description="Names of the rewards.", examples=[["clip_score"]])
    versions: list[RewardVersion] | None = Field(
        description="The version of each reward; null until a worker has loaded the rewards."
    )
    generation: UUID | None = Field(description="The generation of the images; null for images of the request.")
    total_images: int
    images: list[ScoredImage]
