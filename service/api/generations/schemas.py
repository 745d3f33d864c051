"""Response models for generations."""

from typing import Any

from pydantic import BaseModel, Field

from service.jobs.views import JobView


class GenerationImageView(BaseModel):
    """One image of a generation."""

    number: int = Field(
        description="Number of the image, from 0, ordered by checkpoint, then prompt, then image of the prompt."
    )
    checkpoint: str = Field(description="The checkpoint id, or `base`.", examples=["base"])
    prompt_index: int
    image_index: int
    prompt: str = Field(examples=["a red circle left of a blue square"])
    seed: int
    sha256: str
    size: int = Field(description="Size of the PNG in bytes.")
    url: str = Field(description="The path of the PNG.")


class GenerationSummary(JobView):
    """The summary of a generation, as returned in lists."""

    model: str = Field(examples=["shapes-flux"])
    checkpoints: list[str] = Field(examples=[["base"]])
    total_images: int


class GenerationView(JobView):
    """The full details of a generation."""

    spec: dict[str, Any] = Field(
        description="The request, completed with the model's defaults.",
        examples=[{"model": "shapes-flux", "prompts": ["a red circle"], "seed": 7}],
    )
    queue_position: int | None = Field(description="1 if it is claimed next; null if the generation is not waiting.")
    total_images: int
    images: list[GenerationImageView] = Field(description="The images generated so far.")
    grid: str = Field(description="The path of the image grid, available once the generation has succeeded.")
