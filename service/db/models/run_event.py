"""`run_events`: what happened to a run, in order."""

import uuid

from sqlalchemy import ForeignKey
from sqlalchemy.orm import Mapped, mapped_column, synonym

from service.db.base import Base
from service.db.models.supervised import EventColumns


class RunEvent(EventColumns, Base):
    """Something that happened to a run."""

    __tablename__ = "run_events"

    run_id: Mapped[uuid.UUID] = mapped_column(
        ForeignKey("runs.id", ondelete="CASCADE"), primary_key=True, sort_order=-1
    )
    job_id = synonym("run_id")
