"""How generations are shown."""

from typing import Any

from pydantic import BaseModel, Field

from service.contracts.base import Moment
from service.contracts.status import JobStatus
from service.http.pagination import PageQuery
from service.jobs.views import JobView


class GenerationImageView(BaseModel):
    """One image of a generation."""

    number: int = Field(description="Counts checkpoints, then prompts, then images of a prompt.")
    checkpoint: str = Field(description="A checkpoint's id, or `base`.", examples=["base"])
    prompt_index: int
    image_index: int
    prompt: str = Field(examples=["a red circle left of a blue square"])
    seed: int
    sha256: str
    size: int = Field(description="Bytes of the PNG.")
    url: str = Field(description="Where the PNG is.")


class GenerationFilters(PageQuery):
    """Which generations to list."""

    status: list[JobStatus] = Field([], max_length=len(JobStatus), description="One of these states.")
    created_after: Moment | None = Field(None, description="Created at or after this time.")
    created_before: Moment | None = Field(None, description="Created before this time.")


class GenerationSummary(JobView):
    """A generation in a list."""

    model: str = Field(examples=["shapes-flux"])
    checkpoints: list[str] = Field(examples=[["base"]])
    total_images: int


class GenerationView(JobView):
    """A generation in full."""

    spec: dict[str, Any] = Field(
        description="What is drawn: the request, with the model's own numbers filled in.",
        examples=[{"model": "shapes-flux", "prompts": ["a red circle"], "seed": 7}],
    )
    queue_position: int | None = Field(description="1 is taken next; null when it does not wait.")
    total_images: int
    images: list[GenerationImageView] = Field(description="Those drawn so far.")
    grid: str = Field(description="Where the comparison of all images is, once it has succeeded.")
