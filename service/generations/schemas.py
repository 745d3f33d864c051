"""How generations are shown."""

from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from service import examples
from service.jobs import JobView


class ImageView(BaseModel):
    """One picture of a generation."""

    number: int = Field(description="Counts checkpoints, then prompts, then images of a prompt.")
    checkpoint: str = Field(description="A checkpoint's id, or `base`.")
    prompt_index: int
    image_index: int
    prompt: str
    seed: int
    sha256: str
    size: int = Field(description="Bytes of the PNG.")
    url: str = Field(description="Where the PNG is.")


class GenerationView(JobView):
    """A generation in full."""

    model_config = ConfigDict(json_schema_extra=examples.example(examples.GENERATION))

    spec: dict[str, Any] = Field(description="What is drawn: the request, with the model's own numbers filled in.")
    queue_position: int | None = Field(description="1 is taken next; null when it does not wait.")
    total_images: int
    images: list[ImageView] = Field(description="Those drawn so far.")
    grid: str = Field(description="Where the comparison of all pictures is, once it has succeeded.")
