"""The request body of `POST /score`, and the reward values that a worker computes."""

from typing import Annotated, Literal, Self
from uuid import UUID

from pydantic import Field, model_validator

from service.contracts.base import DISTINCT, Contract, Name, Prompt


class GivenImage(Contract):
    """An image to score, with its prompt."""

    prompt: Prompt = Field(description="1 to 2000 characters.")
    image: str = Field(min_length=1, description="A base64-encoded PNG, JPEG or WebP file.")


class ScoreSpec(Contract):
    """A request to compute rewards of uploaded images or of a generation's images."""

    rewards: Annotated[tuple[Name, ...], DISTINCT] = Field(
        min_length=1, max_length=16, description="Distinct rewards of the catalog."
    )
    images: tuple[GivenImage, ...] | None = Field(
        None,
        min_length=1,
        max_length=4096,
        description="Images with their prompts. Mutually exclusive with `generation`.",
    )
    generation: UUID | None = Field(None, description="Id of a finished generation whose images are scored.")

    @model_validator(mode="after")
    def _check_source(self) -> Self:
        if (self.images is None) == (self.generation is None):
            raise ValueError("give either `images` or `generation`")
        return self


class RewardVersion(Contract):
    """The version of a reward. Values are comparable only if they were computed by the same version."""

    name: Name
    kind: str = Field(description="The class that computes the reward.")
    weights: str | None = Field(
        description="SHA-256 over the names and contents of the weight files; null if the reward has no weights, is "
        "remote, or its weights could not be loaded."
    )
    identity: dict[str, str | None] = Field({}, description="Other properties, such as the model of a server.")
    scale: str = Field(description="Meaning and usual range of the values.")
    range: tuple[float, float] | None = Field(description="Values mapped to 0 and 1; null: no scaling.")


class RewardValue(Contract):
    """The value of one reward for one image."""

    reward: Name
    status: Literal["ok", "failed"]
    value: float | None = Field(description="The raw value, float32; null if the reward failed.")
    normalized: float | None = Field(description="The value scaled by the reward's `range`; null if the reward failed.")
    cause: str | None = Field(None, description="Reason for the failure.")
