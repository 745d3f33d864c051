"""`prompt_sets`: uploaded prompts."""

import uuid
from datetime import datetime
from typing import Any

from sqlalchemy import ForeignKey, Index, text
from sqlalchemy.orm import Mapped, mapped_column

from service.db.base import Base, CreatedAt, StoredFile, new_id


class PromptSet(StoredFile, Base):
    """A list of prompts. The file, JSON lines of `contracts.prompts.PromptLine`, never changes.

    A name refers to the one set of that name that is not deleted. A deleted set keeps its row, for runs that used it.
    """

    __tablename__ = "prompt_sets"
    __table_args__ = (Index("uq_prompt_sets_name", "name", unique=True, postgresql_where=text("deleted_at IS NULL")),)

    id: Mapped[uuid.UUID] = mapped_column(primary_key=True, default=new_id)
    upload_id: Mapped[uuid.UUID] = mapped_column(index=True)
    """Shared by the sets into which one upload was split."""
    name: Mapped[str]
    description: Mapped[str]
    format: Mapped[str]
    """`contracts.prompts.Format` of the uploaded file."""
    counts: Mapped[dict[str, Any]]
    """`contracts.prompts.Counts` of the uploaded file, as JSON."""
    split: Mapped[dict[str, Any] | None]
    """`contracts.prompts.Split`, as JSON; null where the upload became one set."""
    prompts: Mapped[int]
    """Number of prompts."""
    created_at: Mapped[CreatedAt]
    created_by: Mapped[uuid.UUID | None] = mapped_column(ForeignKey("api_keys.id"))
    deleted_at: Mapped[datetime | None]
