"""Response models for scores."""

from uuid import UUID

from pydantic import Field

from service.contracts.scores import RewardValue, RewardVersion
from service.http.pagination import RowView
from service.jobs.views import JobView


class ScoreSummary(JobView):
    """The summary of a score, as returned in lists."""

    rewards: list[str] = Field(description="Names of the rewards.", examples=[["clip_score"]])
    generation: UUID | None = Field(description="The generation that contains the images; null if they were uploaded.")
    total_images: int


class ScoredImage(RowView):
    """An image and its reward values."""

    number: int = Field(description="Index of the image in the request, or its number in the generation.")
    prompt: str = Field(examples=["a red circle left of a blue square"])
    width: int
    height: int
    sha256: str = Field(description="SHA-256 of the PNG that is scored.")
    values: list[RewardValue] | None = Field(
        description="The value of each reward; null until the image has been scored."
    )


class ScoreView(ScoreSummary):
    """The full details of a score."""

    queue_position: int | None = Field(description="1 if it is claimed next; null if the score is not waiting.")
    versions: list[RewardVersion] | None = Field(
        description="The version of each reward; null until a worker has loaded the rewards."
    )
    images: list[ScoredImage]
