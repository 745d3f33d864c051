"""`samples`: images worth looking at."""

import uuid
from typing import Any

from sqlalchemy import BigInteger, ForeignKey, Integer, Text, UniqueConstraint
from sqlalchemy.orm import Mapped, mapped_column

from service.db.base import Base, new_id


class Sample(Base):
    """A held-out image, or the best or worst of a group. `key` is its place in the artifact store."""

    __tablename__ = "samples"
    __table_args__ = (UniqueConstraint("run_id", "step", "kind", "index", "attempt"),)

    id: Mapped[uuid.UUID] = mapped_column(primary_key=True, default=new_id)
    run_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("runs.id", ondelete="CASCADE"))
    attempt: Mapped[int] = mapped_column(Integer)
    step: Mapped[int] = mapped_column(Integer)
    kind: Mapped[str] = mapped_column(Text)
    """`heldout`, `best` or `worst`."""
    index: Mapped[int] = mapped_column(Integer)
    prompt: Mapped[str] = mapped_column(Text)
    rewards: Mapped[dict[str, Any]]
    sde_step: Mapped[int | None] = mapped_column(Integer)
    granularity: Mapped[int | None] = mapped_column(Integer)
    key: Mapped[str] = mapped_column(Text)
    sha256: Mapped[str] = mapped_column(Text)
    size: Mapped[int] = mapped_column(BigInteger)
