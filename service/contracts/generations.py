"""The request body of `POST /generate`."""

from typing import Annotated, Literal
from uuid import UUID

from pydantic import Field

from service.contracts.base import DISTINCT, ImageOptions, Name, Prompt


class GenerationSpec(ImageOptions):
    """A request to generate images with one or more checkpoints from the same prompts and seeds."""

    model: Name = Field("shapes-flux", description="A model of the catalog.")
    checkpoints: Annotated[tuple[Literal["base"] | UUID, ...], DISTINCT] = Field(
        ("base",), min_length=1, max_length=8, description="Distinct checkpoint ids, or `base` for the base model."
    )
    prompts: tuple[Prompt, ...] = Field(min_length=1, max_length=256, description="1 to 256 prompts.")
    num_images: int = Field(1, ge=1, le=64, description="Images per prompt and checkpoint.")
    seed: int = Field(
        0,
        ge=0,
        le=2**63 - 65,
        description="Random seed. Image j of prompt p starts from the same noise for all checkpoints.",
    )

    @property
    def total_images(self) -> int:
        return len(self.checkpoints) * len(self.prompts) * self.num_images
