"""Table `prompt_sets`: uploaded prompts."""

import uuid
from datetime import datetime
from typing import Any

from sqlalchemy import ForeignKey, Index, text
from sqlalchemy.orm import Mapped, mapped_column

from service.db.base import Base, CreatedAt, StoredFile, new_id


class PromptSet(StoredFile, Base):
    """A list of prompts, stored as a file of JSON lines (`contracts.prompts.PromptLine`) that never changes.

    Names are unique among sets that have not been deleted. The row of a deleted set is kept for the runs that
    have used it.
    """

    __tablename__ = "prompt_sets"
    __table_args__ = (Index("uq_prompt_sets_name", "name", unique=True, postgresql_where=text("deleted_at IS NULL")),)

    id: Mapped[uuid.UUID] = mapped_column(primary_key=True, default=new_id)
    upload_id: Mapped[uuid.UUID] = mapped_column(index=True)
    """Id shared by all sets created from one upload."""
    name: Mapped[str]
    description: Mapped[str]
    format: Mapped[str]
    """The `contracts.prompts.Format` of the uploaded file."""
    counts: Mapped[dict[str, Any]]
    """The `contracts.prompts.Counts` of the uploaded file, as JSON."""
    split: Mapped[dict[str, Any] | None]
    """The `contracts.prompts.Split` as JSON, or null if the upload was not split."""
    prompts: Mapped[int]
    """Number of prompts."""
    created_at: Mapped[CreatedAt]
    created_by: Mapped[uuid.UUID | None] = mapped_column(ForeignKey("api_keys.id"))
    deleted_at: Mapped[datetime | None]
