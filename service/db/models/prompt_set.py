"""`prompt_sets`: prompts that clients sent."""

import uuid
from datetime import datetime
from typing import Any

from sqlalchemy import BigInteger, ForeignKey, Index, Integer, Text, func, text
from sqlalchemy.orm import Mapped, mapped_column

from service.db.artifacts import Stored
from service.db.base import Base, new_id


class PromptSet(Base):
    """A list of prompts. Its file never changes; a deleted one keeps its row, for the runs that were made with it.

    A name means the set of that name that was not deleted, which is one at most.
    """

    __tablename__ = "prompt_sets"
    __table_args__ = (Index("uq_prompt_sets_name", "name", unique=True, postgresql_where=text("deleted_at IS NULL")),)

    id: Mapped[uuid.UUID] = mapped_column(primary_key=True, default=new_id)
    upload_id: Mapped[uuid.UUID] = mapped_column(index=True)
    """Of the request that brought it: sets that one file was split into have the same."""
    name: Mapped[str] = mapped_column(Text)
    description: Mapped[str] = mapped_column(Text)
    format: Mapped[str] = mapped_column(Text)
    """`contracts.prompts.Format` of the file it came in."""
    counts: Mapped[dict[str, Any]]
    """`contracts.prompts.Counts` of that file, as JSON."""
    split: Mapped[dict[str, Any] | None]
    """`contracts.prompts.Split`, as JSON; null where the file became one set."""
    prompts: Mapped[int] = mapped_column(Integer)
    key: Mapped[str] = mapped_column(Text)
    """Its file in the artifact store: JSON lines, each a `contracts.prompts.PromptLine`."""
    sha256: Mapped[str] = mapped_column(Text)
    size: Mapped[int] = mapped_column(BigInteger)
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())
    created_by: Mapped[uuid.UUID | None] = mapped_column(ForeignKey("api_keys.id"))
    deleted_at: Mapped[datetime | None]

    @property
    def stored(self) -> Stored:
        """The file."""
        return Stored(self.key, self.sha256, self.size)
