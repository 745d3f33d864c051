"""`api_keys`: who may ask for what."""

import uuid
from datetime import datetime

from sqlalchemy import Integer, Text, func
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.orm import Mapped, mapped_column

from service.db.base import Base, new_id


class ApiKey(Base):
    """A key, of which only a hash is kept. A revoked one keeps its row, for the jobs that it asked for."""

    __tablename__ = "api_keys"

    id: Mapped[uuid.UUID] = mapped_column(primary_key=True, default=new_id)
    name: Mapped[str] = mapped_column(Text)
    prefix: Mapped[str] = mapped_column(Text, unique=True)
    """The key's beginning: it is found by this, and people tell keys apart by it."""
    hash: Mapped[str] = mapped_column(Text)
    """SHA-256 of the whole key, hexadecimal."""
    scopes: Mapped[list[str]] = mapped_column(ARRAY(Text))
    """Of `read`, `write` and `admin`."""
    max_open_jobs: Mapped[int | None] = mapped_column(Integer)
    """Most jobs of this key that have not ended; null: the setting's."""
    requests_per_minute: Mapped[int | None] = mapped_column(Integer)
    """Most requests in a minute; null: the setting's."""
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())
    expires_at: Mapped[datetime | None]
    revoked_at: Mapped[datetime | None]
    last_used_at: Mapped[datetime | None]
