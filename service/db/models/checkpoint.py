"""`checkpoints`: saved policies."""

import uuid
from datetime import datetime
from typing import Any

from sqlalchemy import BigInteger, Double, ForeignKey, Integer, Text, UniqueConstraint, false, func
from sqlalchemy.orm import Mapped, mapped_column

from service.db.artifacts import Stored
from service.db.base import Base, new_id


class Checkpoint(Base):
    """A policy after `step` optimizer steps. `key` is its directory in the artifact store; the row comes last.

    A deleted one keeps its row, for the runs and images that came from it.
    """

    __tablename__ = "checkpoints"
    __table_args__ = (UniqueConstraint("run_id", "step", "attempt"),)

    id: Mapped[uuid.UUID] = mapped_column(primary_key=True, default=new_id)
    run_id: Mapped[uuid.UUID | None] = mapped_column(ForeignKey("runs.id"))
    """The run that made it; null for imported weights."""
    name: Mapped[str] = mapped_column(Text, default="", server_default="")
    """A name for people, of imported weights."""
    attempt: Mapped[int] = mapped_column(Integer)
    step: Mapped[int] = mapped_column(Integer)
    kind: Mapped[str] = mapped_column(Text)
    """`lora` or `full`."""
    model: Mapped[str] = mapped_column(Text)
    architecture: Mapped[str | None] = mapped_column(Text)
    """Null for imported weights."""
    manifest: Mapped[dict[str, Any]]
    """`contracts.jobs.CheckpointManifest`, as JSON."""
    key: Mapped[str] = mapped_column(Text)
    size: Mapped[int] = mapped_column(BigInteger)
    """Bytes of all its files."""
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())
    created_by: Mapped[uuid.UUID | None] = mapped_column(ForeignKey("api_keys.id"))
    """The API key that imported it."""
    best_value: Mapped[float | None] = mapped_column(Double)
    """The held-out value by which it was the best of its run when it was saved; null where it was not."""
    damaged: Mapped[bool] = mapped_column(default=False, server_default=false())
    """Whether the store was found to have lost or altered a file of it, when a worker last wanted it."""
    deleted_at: Mapped[datetime | None]
    """When it was deleted or retired; its files are then removed from the store."""

    @property
    def stored(self) -> dict[str, Stored]:
        """Its files in the artifact store, by the names that the manifest gives them."""
        return {
            file["name"]: Stored(f"{self.key}/{file['name']}", file["sha256"], file["size"])
            for file in self.manifest["files"]
        }
