"""`checkpoints`: saved policies."""

import uuid
from datetime import datetime
from typing import Any

from sqlalchemy import ForeignKey, UniqueConstraint, false
from sqlalchemy.orm import Mapped, mapped_column

from service.db.artifacts import Stored
from service.db.base import Base, BigInt, CreatedAt, new_id


class Checkpoint(Base):
    """A policy after `step` optimizer steps. `key` is its directory in the artifact store; the row is written last.

    A deleted checkpoint keeps its row, because runs and images refer to it.
    """

    __tablename__ = "checkpoints"
    __table_args__ = (UniqueConstraint("run_id", "step", "attempt"),)

    id: Mapped[uuid.UUID] = mapped_column(primary_key=True, default=new_id)
    run_id: Mapped[uuid.UUID | None] = mapped_column(ForeignKey("runs.id"))
    """The run that saved it; null for imported weights."""
    name: Mapped[str] = mapped_column(default="", server_default="")
    """Display name of imported weights."""
    attempt: Mapped[int]
    step: Mapped[int]
    kind: Mapped[str]
    """`lora` or `full`."""
    model: Mapped[str]
    architecture: Mapped[str | None]
    """Null for imported weights."""
    manifest: Mapped[dict[str, Any]]
    """`contracts.jobs.CheckpointManifest`, as JSON."""
    key: Mapped[str]
    size: Mapped[BigInt]
    """Bytes of all its files."""
    created_at: Mapped[CreatedAt]
    created_by: Mapped[uuid.UUID | None] = mapped_column(ForeignKey("api_keys.id"))
    """The API key that imported it."""
    best_value: Mapped[float | None]
    """Its held-out value, if it was the best of its run when it was saved."""
    damaged: Mapped[bool] = mapped_column(default=False, server_default=false())
    """Whether a worker found a file missing or altered in the store."""
    deleted_at: Mapped[datetime | None]
    """When it was deleted or retired; its files are removed from the store afterwards."""

    @property
    def stored(self) -> dict[str, Stored]:
        """Its files in the artifact store, by their names in the manifest."""
        return {
            file["name"]: Stored(f"{self.key}/{file['name']}", file["sha256"], file["size"])
            for file in self.manifest["files"]
        }
