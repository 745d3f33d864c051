"""How prompt sets are sent and shown."""

from datetime import datetime
from typing import Annotated, Any, Literal
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, model_validator

from service.contracts.prompts import Counts, Format, Split
from service.http.errors import FieldError
from service.http.pagination import PageQuery

NewName = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9._-]{0,54}$")]
"""A set's name, with room for what a split puts behind it."""


class PromptSetQuery(BaseModel):
    """What an uploaded file is to become."""

    model_config = ConfigDict(extra="forbid")

    name: NewName = Field(description="The set's name, which runs say; no other set may have it.")
    description: str = Field("", max_length=1000, pattern=r"^[^\x00]*$", description="What people should know of it.")
    skip_bad: bool = Field(
        False, description="Leave out lines that cannot be used, counted and the first told, instead of refusing all."
    )
    heldout: float | None = Field(
        None,
        gt=0,
        le=1_000_000,
        allow_inf_nan=False,
        description="Make two sets without a prompt in common, NAME-train and NAME-heldout: below 1 this share is held "
        "out, from 1 on so many prompts. A prompt's side depends on the prompt and `seed`, not on the file's order.",
    )
    seed: int = Field(0, ge=0, le=2**31 - 1, description="Of the split.")

    @model_validator(mode="after")
    def _whole(self) -> "PromptSetQuery":
        if self.heldout is not None and self.heldout >= 1 and self.heldout != int(self.heldout):
            raise ValueError(f"heldout {self.heldout} is neither a share below 1 nor a whole number")
        return self


class PromptSetFilters(PageQuery):
    """Which page of a list."""


class PromptSetView(BaseModel):
    """A list of prompts that a run's spec may name."""

    model_config = ConfigDict(from_attributes=True)

    name: str
    origin: Literal["catalog", "uploaded"] = Field(description="Whether the operator offers it, or a client sent it.")
    description: str
    id: UUID | None = Field(description="Null for one of the catalog, as is everything below.")
    prompts: int | None = Field(description="How many.")
    size: int | None = Field(description="Bytes of its file.")
    sha256: str | None = Field(description="Of its file: JSON lines, each prompt once, as normalised.")
    format: Format | None = Field(description="Of the file that was sent.")
    counts: Counts | None = Field(description="What that file held.")
    split: Split | None = Field(description="Null, too, where the file became one set.")
    created_at: datetime | None


class PromptSetUpload(BaseModel):
    """What came of a file."""

    prompt_sets: list[PromptSetView] = Field(description="One, or with `heldout` two: to train on, and held out.")
    left_out: list[FieldError] = Field(
        description="With `skip_bad`: the first lines left out, and why. Empty in an answer that is given again."
    )


class PromptView(BaseModel):
    """A prompt of a set."""

    index: int = Field(description="From 0.")
    prompt: str = Field(examples=["a red circle left of a blue square"])
    metadata: dict[str, Any] | None = Field(description="What was said beside it.")
