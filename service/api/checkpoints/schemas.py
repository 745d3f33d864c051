"""How checkpoints are shown."""

from datetime import datetime
from typing import Any
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field

from service.contracts.base import Name
from service.http.pagination import PageQuery, Text


class CheckpointFilters(PageQuery):
    """Which page to list."""


class AllCheckpointFilters(CheckpointFilters):
    """Which checkpoints to list."""

    model: Text | None = Field(None, description="The model's name.")
    imported: bool | None = Field(None, description="Only imported ones, or only those of runs.")
    deleted: bool = Field(False, description="Also those that were deleted.")


class ImportQuery(BaseModel):
    """What an imported LoRA file is for."""

    model_config = ConfigDict(extra="forbid")

    model: Name = Field(description="A model of the catalog.")
    name: str = Field("", max_length=200, pattern=r"^[^\x00]*$", description="A name for people.")
    lora_alpha: float | None = Field(
        None, gt=0, le=4096, allow_inf_nan=False, description="α; unset: what the file's metadata says, else its rank."
    )


class ArchiveQuery(BaseModel):
    """What an archive holds."""

    model_config = ConfigDict(extra="forbid")

    training: bool = Field(False, description="Also what training goes on from: the optimizer's state, for one.")


class CheckpointSummary(BaseModel):
    """A saved policy."""

    model_config = ConfigDict(from_attributes=True)

    id: UUID
    run_id: UUID | None = Field(description="The run that made it; null for imported weights.")
    name: str = Field(description="A name for people, of imported weights.")
    attempt: int
    step: int = Field(description="Optimizer steps done.")
    kind: str = Field(description="`lora` or `full`.")
    model: str = Field(description="Catalog name of the model it belongs to.")
    architecture: str | None = Field(description="Hash of the transformer's configuration; null for imported weights.")
    size: int = Field(description="Bytes of all its files.")
    best_value: float | None = Field(
        description="The value of `checkpoints.best` by which it was the best of its run when it was saved; null where "
        "it was not."
    )
    created_at: datetime
    deleted_at: datetime | None = Field(description="When it was deleted or retired: its files are no longer there.")


class CheckpointFileView(BaseModel):
    """One file of a checkpoint."""

    name: str
    sha256: str
    size: int = Field(description="Bytes.")
    url: str = Field(description="Where it can be downloaded, whole or in ranges.")


class CheckpointView(CheckpointSummary):
    """A checkpoint in full."""

    files: list[CheckpointFileView]
    manifest: dict[str, Any] = Field(description="As it was saved: files with hashes, LoRA rank and alpha, the spec.")
