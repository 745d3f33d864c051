"""How scorings are shown."""

from uuid import UUID

from pydantic import BaseModel, Field

from service.contracts.base import Moment
from service.contracts.scores import RewardValue, RewardVersion
from service.contracts.status import JobStatus
from service.http.pagination import PageQuery
from service.jobs.views import JobView


class ScoreFilters(PageQuery):
    """Which scorings to list."""

    status: list[JobStatus] = Field([], max_length=len(JobStatus), description="One of these states.")
    created_after: Moment | None = Field(None, description="Created at or after this time.")
    created_before: Moment | None = Field(None, description="Created before this time.")


class ScoreSummary(JobView):
    """A scoring in a list."""

    rewards: list[str] = Field(description="Names of the rewards.", examples=[["clip_score"]])
    generation: UUID | None = Field(description="Whose images they are; null where they came with the request.")
    total_images: int


class ScoredImage(BaseModel):
    """An image and what the rewards say of it."""

    number: int = Field(description="Its place in the request, or its number in the generation.")
    prompt: str = Field(examples=["a red circle left of a blue square"])
    width: int
    height: int
    sha256: str = Field(description="Of the RGB PNG that is scored.")
    values: list[RewardValue] | None = Field(description="One of each reward; null until it was scored.")


class ScoreView(JobView):
    """A scoring in full."""

    queue_position: int | None = Field(description="1 is taken next; null when it does not wait.")
    rewards: list[str] = Field(description="Names of the rewards.", examples=[["clip_score"]])
    versions: list[RewardVersion] | None = Field(
        description="What computed the values, reward by reward; null before a worker has loaded them."
    )
    generation: UUID | None = Field(description="Whose images they are; null where they came with the request.")
    total_images: int
    images: list[ScoredImage]
