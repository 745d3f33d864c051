"""What a client may ask of `POST /score`, and what a worker finds."""

from typing import Literal, Self
from uuid import UUID

from pydantic import Field, field_validator, model_validator

from service.contracts.base import Contract, Name, Prompt


class GivenImage(Contract):
    """An image to be scored, and what it was to show."""

    prompt: Prompt = Field(description="1 to 2000 characters.")
    image: str = Field(min_length=1, description="A PNG, JPEG or WebP file in base64.")


class ScoreSpec(Contract):
    """Images, given or of a generation, and the rewards that score them."""

    rewards: tuple[Name, ...] = Field(min_length=1, max_length=16, description="Rewards of the catalog. Distinct.")
    images: tuple[GivenImage, ...] | None = Field(
        None, min_length=1, max_length=4096, description="Images with their prompts; either these or `generation`."
    )
    generation: UUID | None = Field(None, description="A generation that has ended, whose images are scored.")

    @field_validator("rewards")
    @classmethod
    def _distinct(cls, rewards: tuple[str, ...]) -> tuple[str, ...]:
        if len(set(rewards)) != len(rewards):
            raise ValueError("a reward stands more than once")
        return rewards

    @model_validator(mode="after")
    def _one_origin(self) -> Self:
        if (self.images is None) == (self.generation is None):
            raise ValueError("give either `images` or `generation`")
        return self


class RewardVersion(Contract):
    """What computed values: only those of the same version can be compared."""

    name: Name
    kind: str = Field(description="The class that computes it.")
    weights: str | None = Field(
        description="SHA-256 over the names and contents of its weights' files; null for one that has none, that is "
        "asked of a server, or that could not be loaded."
    )
    identity: dict[str, str | None] = Field(
        {}, description="What besides weights decides the values, as of a server's."
    )
    scale: str = Field(description="What the values mean and where they usually lie.")
    range: tuple[float, float] | None = Field(description="Values that are normalised to 0 and 1; null: none are.")


class RewardValue(Contract):
    """What a reward says of an image."""

    reward: Name
    status: Literal["ok", "failed"]
    value: float | None = Field(description="As the reward gives it, float32; null where it failed.")
    normalised: float | None = Field(description="On the scale that the reward's `range` makes 0 to 1; null likewise.")
    cause: str | None = Field(None, description="Why it failed.")
