"""Table `checkpoints`: saved policies."""

import uuid
from datetime import datetime
from typing import Any

from sqlalchemy import ForeignKey, UniqueConstraint, false
from sqlalchemy.orm import Mapped, mapped_column

from service.db.artifacts import Stored
from service.db.base import Base, BigInt, CreatedAt, new_id


class Checkpoint(Base):
    """A policy after `step` optimizer steps. `key` is its directory in the artifact store.

    The row is written after the files. The row of a deleted checkpoint is kept, because runs and images refer to it.
    """

    __tablename__ = "checkpoints"
    __table_args__ = (UniqueConstraint("run_id", "step", "attempt"),)

    id: Mapped[uuid.UUID] = mapped_column(primary_key=True, default=new_id)
    run_id: Mapped[uuid.UUID | None] = mapped_column(ForeignKey("runs.id"))
    """The run that saved the checkpoint, or null for imported weights."""
    name: Mapped[str] = mapped_column(default="", server_default="")
    """Display name of imported weights."""
    attempt: Mapped[int]
    step: Mapped[int]
    kind: Mapped[str]
    """The kind of weights: `lora` or `full`."""
    model: Mapped[str]
    architecture: Mapped[str | None]
    """Null for imported weights."""
    manifest: Mapped[dict[str, Any]]
    """The `contracts.attempt_files.CheckpointManifest` as JSON."""
    key: Mapped[str]
    size: Mapped[BigInt]
    """Total size of its files in bytes."""
    created_at: Mapped[CreatedAt]
    created_by: Mapped[uuid.UUID | None] = mapped_column(ForeignKey("api_keys.id"))
    """The API key that imported the checkpoint."""
    best_value: Mapped[float | None]
    """The held-out value, if the checkpoint was the best of its run when it was saved."""
    damaged: Mapped[bool] = mapped_column(default=False, server_default=false())
    """Whether a worker has found a file missing or altered in the artifact store."""
    deleted_at: Mapped[datetime | None]
    """When the checkpoint was deleted or retired. Its files are removed from the artifact store afterwards."""

    @property
    def stored(self) -> dict[str, Stored]:
        """The checkpoint's files in the artifact store, by their names in the manifest."""
        return {
            file["name"]: Stored(f"{self.key}/{file['name']}", file["sha256"], file["size"])
            for file in self.manifest["files"]
        }
