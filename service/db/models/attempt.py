"""`attempts`: one try at a run."""

import uuid

from sqlalchemy import ForeignKey, Integer
from sqlalchemy.orm import Mapped, mapped_column, synonym

from service.db.base import Base
from service.db.models.supervised import AttemptColumns


class Attempt(AttemptColumns, Base):
    """One try at a run."""

    __tablename__ = "attempts"

    run_id: Mapped[uuid.UUID] = mapped_column(
        ForeignKey("runs.id", ondelete="CASCADE"), primary_key=True, sort_order=-1
    )
    job_id = synonym("run_id")
    resumed_at: Mapped[int] = mapped_column(Integer, default=0)
    max_steps: Mapped[int] = mapped_column(Integer)
    """Optimizer steps it was to reach."""
