"""`reward_groups`: the rewards that advantages were made of."""

import uuid

from sqlalchemy import REAL, ForeignKey, Integer, PrimaryKeyConstraint, Text
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.orm import Mapped, mapped_column

from service.db.base import Base


class RewardGroup(Base):
    """G values of one reward on one group: a prompt, an SDE step and a granularity. Null inside means it failed."""

    __tablename__ = "reward_groups"
    __table_args__ = (
        PrimaryKeyConstraint("run_id", "step", "prompt_index", "sde_step", "granularity", "reward", "attempt"),
    )

    run_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("runs.id", ondelete="CASCADE"))
    step: Mapped[int] = mapped_column(Integer)
    prompt_index: Mapped[int] = mapped_column(Integer)
    sde_step: Mapped[int] = mapped_column(Integer)
    granularity: Mapped[int] = mapped_column(Integer)
    reward: Mapped[str] = mapped_column(Text)
    attempt: Mapped[int] = mapped_column(Integer)
    prompt: Mapped[str] = mapped_column(Text)
    values: Mapped[list[float | None]] = mapped_column(ARRAY(REAL))
