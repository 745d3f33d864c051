"""`attempts`: one try at a run."""

import uuid
from datetime import datetime
from typing import Any

from sqlalchemy import BigInteger, ForeignKey, Integer, Text, false, func
from sqlalchemy.orm import Mapped, mapped_column

from service.db.base import Base


class Attempt(Base):
    """Who tried, on what, how it ended, and how far its files have been read into rows."""

    __tablename__ = "attempts"

    run_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("runs.id", ondelete="CASCADE"), primary_key=True)
    number: Mapped[int] = mapped_column(Integer, primary_key=True, autoincrement=False)
    worker: Mapped[str] = mapped_column(Text)
    provenance: Mapped[dict[str, Any] | None]
    """`contracts.events.Started.provenance`: device, versions, hashes, threads."""
    resumed_at: Mapped[int] = mapped_column(Integer, default=0)
    max_steps: Mapped[int] = mapped_column(Integer)
    """Optimizer steps it was to reach."""
    started_at: Mapped[datetime] = mapped_column(server_default=func.now())
    ended_at: Mapped[datetime | None]
    outcome: Mapped[str | None] = mapped_column(Text)
    """How it ended: a terminal status, `paused`, `interrupted`, or null while it lasts."""
    lost: Mapped[bool] = mapped_column(default=False, server_default=false())
    """Whether its worker or process disappeared."""
    events_offset: Mapped[int] = mapped_column(BigInteger, default=0)
    """Bytes of `events.jsonl` already in rows; commits with them."""
    log_offset: Mapped[int] = mapped_column(BigInteger, default=0)
    """Bytes of the log already in `log_chunks`; commits with them."""
