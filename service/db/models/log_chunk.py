"""`log_chunks`: what a run's child process printed."""

import uuid

from sqlalchemy import BigInteger, ForeignKey, Integer, LargeBinary
from sqlalchemy.orm import Mapped, mapped_column

from service.db.base import Base


class LogChunk(Base):
    """Bytes of an attempt's log from `offset` on, as printed: any encoding, any cut, no gap between chunks."""

    __tablename__ = "log_chunks"

    run_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("runs.id", ondelete="CASCADE"), primary_key=True)
    attempt: Mapped[int] = mapped_column(Integer, primary_key=True, autoincrement=False)
    offset: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)
    data: Mapped[bytes] = mapped_column(LargeBinary)
