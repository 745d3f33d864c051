"""`api_keys` and `idempotency_keys`: access to the API, and requests that must not be executed twice."""

import uuid
from datetime import datetime

from sqlalchemy import Text
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.orm import Mapped, mapped_column

from service.db.base import Base, CreatedAt, new_id


class ApiKey(Base):
    """An API key, of which only a hash is stored. A revoked key keeps its row, because its jobs refer to it."""

    __tablename__ = "api_keys"

    id: Mapped[uuid.UUID] = mapped_column(primary_key=True, default=new_id)
    name: Mapped[str]
    prefix: Mapped[str] = mapped_column(unique=True)
    """The beginning of the key, by which it is looked up and recognized."""
    hash: Mapped[str]
    """SHA-256 of the whole key, hexadecimal."""
    scopes: Mapped[list[str]] = mapped_column(ARRAY(Text))
    """Some of `read`, `write` and `admin`."""
    max_open_jobs: Mapped[int | None]
    """Maximum number of unfinished jobs of this key; null: the setting's."""
    requests_per_minute: Mapped[int | None]
    """Maximum number of requests in a minute; null: the setting's."""
    created_at: Mapped[CreatedAt]
    expires_at: Mapped[datetime | None]
    revoked_at: Mapped[datetime | None]
    last_used_at: Mapped[datetime | None]


class IdempotencyKey(Base):
    """A request with an `Idempotency-Key` header. Committed together with the effects of the request."""

    __tablename__ = "idempotency_keys"

    scope: Mapped[uuid.UUID] = mapped_column(primary_key=True)
    """The API key's id; all zeros where no key is required."""
    key: Mapped[str] = mapped_column(primary_key=True)
    fingerprint: Mapped[str]
    """SHA-256 of method, path, query and body, hexadecimal."""
    resource_id: Mapped[uuid.UUID | None]
    """The resource that the request created or changed."""
    created_at: Mapped[CreatedAt] = mapped_column(index=True)
