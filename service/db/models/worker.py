"""`workers`: who is there to take jobs."""

from datetime import datetime
from typing import Any

from sqlalchemy import Text, func
from sqlalchemy.orm import Mapped, mapped_column

from service.db.base import Base


class Worker(Base):
    """A worker process, by the name it also signs leases with."""

    __tablename__ = "workers"

    name: Mapped[str] = mapped_column(Text, primary_key=True)
    queue: Mapped[str] = mapped_column(Text)
    """`train` or `generate`."""
    device: Mapped[str] = mapped_column(Text)
    stats: Mapped[dict[str, Any]] = mapped_column(default=dict, server_default="{}")
    """What it last measured of itself, by metric name."""
    started_at: Mapped[datetime] = mapped_column(server_default=func.now())
    heartbeat_at: Mapped[datetime] = mapped_column(server_default=func.now())
