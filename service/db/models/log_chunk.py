"""`log_chunks`: what a run's child process printed."""

import uuid

from sqlalchemy import ForeignKey
from sqlalchemy.orm import Mapped, mapped_column, synonym

from service.db.base import Base
from service.db.models.supervised import LogColumns


class LogChunk(LogColumns, Base):
    """A piece of the log of a run's attempt."""

    __tablename__ = "log_chunks"

    run_id: Mapped[uuid.UUID] = mapped_column(
        ForeignKey("runs.id", ondelete="CASCADE"), primary_key=True, sort_order=-1
    )
    job_id = synonym("run_id")
