"""What a client may ask of `POST /generate`."""

from typing import Annotated, Literal
from uuid import UUID

from pydantic import Field, field_validator

from service.contracts.base import Contract, Name, Prompt


class GenerationSpec(Contract):
    """Images from one or several checkpoints on the same prompts and seeds. Unsaid sizes are the model's own."""

    model: Name = Field("shapes-flux", description="A model of the catalog.")
    checkpoints: tuple[Literal["base"] | UUID, ...] = Field(
        ("base",), min_length=1, max_length=8, description="Checkpoint ids, or `base` for the model itself. Distinct."
    )
    prompts: tuple[Prompt, ...] = Field(min_length=1, max_length=256, description="1 to 256 prompts.")
    num_images: int = Field(1, ge=1, le=64, description="Images per prompt and checkpoint.")
    seed: int = Field(
        0, ge=0, le=2**63 - 65, description="Image j of prompt p has the same noise for every checkpoint."
    )
    steps: Annotated[int, Field(ge=1, le=200)] | None = Field(
        None, description="Denoising steps; null: the model's own."
    )
    guidance: Annotated[float, Field(ge=0, le=30)] | None = Field(None, description="Guidance; null: the model's own.")
    width: Annotated[int, Field(ge=16, le=4096, multiple_of=16)] | None = Field(None, description="In pixels.")
    height: Annotated[int, Field(ge=16, le=4096, multiple_of=16)] | None = Field(None, description="In pixels.")

    @field_validator("checkpoints")
    @classmethod
    def _distinct(cls, checkpoints: tuple[str | UUID, ...]) -> tuple[str | UUID, ...]:
        if len(set(checkpoints)) != len(checkpoints):
            raise ValueError("a checkpoint stands more than once")
        return checkpoints

    @property
    def total_images(self) -> int:
        return len(self.checkpoints) * len(self.prompts) * self.num_images
