"""Query parameters and response models for prompt sets."""

from datetime import datetime
from typing import Annotated, Any, Literal
from uuid import UUID

from pydantic import BaseModel, Field, StringConstraints, model_validator

from service.contracts.base import FREE_TEXT
from service.contracts.prompts import Counts, Format, Split
from service.http.errors import FieldError
from service.http.pagination import RowView, StrictQuery

NewName = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9._-]{0,54}$")]
"""The name of a new set, short enough for a split suffix to be appended."""


class PromptSetQuery(StrictQuery):
    """Query parameters that control how an uploaded file is stored."""

    name: NewName = Field(description="Unique name of the set, used in run specs.")
    description: Annotated[str, StringConstraints(max_length=1000), FREE_TEXT] = Field("", description="Free text.")
    skip_bad: bool = Field(
        False, description="Skip and count bad lines and list the first of them, instead of rejecting the file."
    )
    heldout: float | None = Field(
        None,
        gt=0,
        le=1_000_000,
        allow_inf_nan=False,
        description="Split the file into two disjoint sets, NAME-train and NAME-heldout. Below 1, this is the share of "
        "held-out prompts; otherwise, their number. Prompts are assigned by a hash of their text and `seed`.",
    )
    seed: int = Field(0, ge=0, le=2**31 - 1, description="Seed of the split.")

    @model_validator(mode="after")
    def _whole(self) -> "PromptSetQuery":
        if self.heldout is not None and self.heldout >= 1 and self.heldout != int(self.heldout):
            raise ValueError(f"Invalid heldout {self.heldout}; must be a share below 1 or a whole number")
        return self


class PromptSetView(RowView):
    """A named list of prompts for run specs."""

    name: str
    origin: Literal["catalog", "uploaded"] = Field(
        description="Whether the set belongs to the catalog or was uploaded by a client."
    )
    description: str
    id: UUID | None = Field(description="Null for a catalog set, as are all following fields.")
    prompts: int | None = Field(description="Number of prompts.")
    size: int | None = Field(description="Size of the stored file in bytes.")
    sha256: str | None = Field(description="SHA-256 of the stored file: JSON lines with each normalized prompt once.")
    format: Format | None = Field(description="Format of the uploaded file.")
    counts: Counts | None = Field(description="Line counts of the uploaded file.")
    split: Split | None = Field(description="How the uploaded file was split; null if it was not split.")
    created_at: datetime | None


class PromptSetUpload(BaseModel):
    """The result of an upload."""

    prompt_sets: list[PromptSetView] = Field(
        description="One set, or the train and held-out sets if `heldout` was given."
    )
    left_out: list[FieldError] = Field(
        description="The errors of the first lines skipped with `skip_bad`; empty for a repeated request."
    )


class PromptView(BaseModel):
    """A prompt of a prompt set."""

    index: int = Field(description="Index of the prompt in the set, from 0.")
    prompt: str = Field(examples=["a red circle left of a blue square"])
    metadata: dict[str, Any] | None = Field(description="Metadata of the uploaded line.")
