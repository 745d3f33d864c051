"""`idempotency_keys`: requests that must not be done twice."""

import uuid
from datetime import datetime

from sqlalchemy import Text, func
from sqlalchemy.orm import Mapped, mapped_column

from service.db.base import Base


class IdempotencyKey(Base):
    """A request by the name its client gave it. Committed together with what the request did."""

    __tablename__ = "idempotency_keys"

    scope: Mapped[uuid.UUID] = mapped_column(primary_key=True)
    """The API key's id; all zeros where none was needed."""
    key: Mapped[str] = mapped_column(Text, primary_key=True)
    fingerprint: Mapped[str] = mapped_column(Text)
    """SHA-256 of method, path, query and body, hexadecimal."""
    resource_id: Mapped[uuid.UUID | None]
    """What it made or changed."""
    created_at: Mapped[datetime] = mapped_column(server_default=func.now(), index=True)
