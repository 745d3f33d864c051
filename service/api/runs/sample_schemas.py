"""How sample pictures are asked for and shown."""

from typing import Literal
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field

from service.http import openapi_examples
from service.http.pagination import Cursor, Limit


class SampleFilters(BaseModel):
    """Which samples to list; everything must hold together."""

    model_config = ConfigDict(extra="forbid")

    kind: Literal["heldout", "best", "worst"] | None = Field(None, description="Of this kind.")
    step: int | None = Field(None, ge=0, le=2**31 - 1, description="Of this optimizer step.")
    limit: Limit = 50
    cursor: Cursor = None


class SampleView(BaseModel):
    """A picture worth looking at."""

    model_config = ConfigDict(json_schema_extra=openapi_examples.example(openapi_examples.SAMPLE))

    id: UUID
    step: int = Field(description="Optimizer steps done when it was drawn.")
    kind: str = Field(description="`heldout`: the same prompts and noises each time. `best`, `worst`: of a group.")
    index: int = Field(description="Place among the pictures of this kind at this step.")
    prompt: str
    rewards: dict[str, float | None] = Field(description="By name; null: the reward failed.")
    sde_step: int | None = Field(description="For best and worst: the SDE step of the group.")
    granularity: int | None = Field(description="For best and worst: the stride it was denoised with.")
    attempt: int
    sha256: str
    size: int = Field(description="Bytes of the PNG.")
    image: str = Field(description="Where the PNG is.")
