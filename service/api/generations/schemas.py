"""Views of generations."""

from typing import Any

from pydantic import BaseModel, Field

from service.jobs.views import JobView


class GenerationImageView(BaseModel):
    """One image of a generation."""

    number: int = Field(description="Counts checkpoints, then prompts, then images of a prompt, from 0.")
    checkpoint: str = Field(description="A checkpoint's id, or `base`.", examples=["base"])
    prompt_index: int
    image_index: int
    prompt: str = Field(examples=["a red circle left of a blue square"])
    seed: int
    sha256: str
    size: int = Field(description="Bytes of the PNG.")
    url: str = Field(description="The path of the PNG.")


class GenerationSummary(JobView):
    """A generation as listed."""

    model: str = Field(examples=["shapes-flux"])
    checkpoints: list[str] = Field(examples=[["base"]])
    total_images: int


class GenerationView(JobView):
    """A generation in full."""

    spec: dict[str, Any] = Field(
        description="The request, with the model's defaults.",
        examples=[{"model": "shapes-flux", "prompts": ["a red circle"], "seed": 7}],
    )
    queue_position: int | None = Field(description="1: claimed next; null for a generation that is not waiting.")
    total_images: int
    images: list[GenerationImageView] = Field(description="The images generated so far.")
    grid: str = Field(description="The path of the grid of all images, available once the generation has succeeded.")
