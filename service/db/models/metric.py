"""`metrics`: scalar measurements."""

import uuid

from sqlalchemy import Double, ForeignKey, Integer, PrimaryKeyConstraint, Text
from sqlalchemy.orm import Mapped, mapped_column

from service.db.base import Base


class Metric(Base):
    """One value of one metric after one optimizer step of one attempt; null where it was not finite.

    The key's order serves curves: all steps of a name lie together, a step's newest attempt last, the value beside it.
    """

    __tablename__ = "metrics"
    __table_args__ = (PrimaryKeyConstraint("run_id", "name", "step", "attempt", postgresql_include=["value"]),)

    run_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("runs.id", ondelete="CASCADE"))
    name: Mapped[str] = mapped_column(Text)
    step: Mapped[int] = mapped_column(Integer)
    attempt: Mapped[int] = mapped_column(Integer)
    value: Mapped[float | None] = mapped_column(Double)
