"""Query parameters and views of checkpoints."""

from datetime import datetime
from typing import Any
from uuid import UUID

from pydantic import BaseModel, Field

from service.contracts.base import DisplayName, Name
from service.http.pagination import PageQuery, RowView, StrictQuery, Text


class CheckpointFilters(PageQuery):
    """Filters for the list of checkpoints. A checkpoint must match all of them."""

    model: Text | None = Field(None, description="The model's name.")
    imported: bool | None = Field(None, description="True: only imported checkpoints; false: only checkpoints of runs.")
    deleted: bool = Field(False, description="Include deleted checkpoints.")


MIN_ALPHA = 1e-6
"""The minimum α of a LoRA. A much smaller scale underflows to 0."""


class ImportQuery(StrictQuery):
    """The model, display name and α of a LoRA file to import."""

    model: Name = Field(description="A model of the catalog.")
    name: DisplayName = Field("", description="Display name.")
    lora_alpha: float | None = Field(
        None,
        ge=MIN_ALPHA,
        le=1e6,
        allow_inf_nan=False,
        description="α of all layers, for the scale α/rank; default: the file's values, or the rank if there are none.",
    )


class ArchiveQuery(StrictQuery):
    """Options for the contents of an archive."""

    training: bool = Field(False, description="Include the training state, such as the optimizer's.")


class CheckpointSummary(RowView):
    """A saved policy."""

    id: UUID
    run_id: UUID | None = Field(description="The run that saved it; null for imported weights.")
    name: str = Field(description="Display name of imported weights.")
    attempt: int
    step: int = Field(description="Optimizer steps completed.")
    kind: str = Field(description="`lora` or `full`.")
    model: str = Field(description="The model's name in the catalog.")
    architecture: str | None = Field(description="Hash of the transformer's configuration; null for imported weights.")
    size: int = Field(description="Total size of all files in bytes.")
    best_value: float | None = Field(
        description="The value of `checkpoints.best` if this was the best checkpoint of its run when saved, or null."
    )
    created_at: datetime
    deleted_at: datetime | None = Field(description="When the files were deleted; null if they were not.")


class CheckpointFileView(BaseModel):
    """A file of a checkpoint."""

    name: str
    sha256: str
    size: int = Field(description="Size in bytes.")
    url: str = Field(description="The path for downloading the file; it supports ranges.")


class CheckpointView(CheckpointSummary):
    """All properties of a checkpoint."""

    files: list[CheckpointFileView]
    manifest: dict[str, Any] = Field(description="The files with hashes, LoRA rank and α, and the spec.")
