"""Tables `api_keys` and `idempotency_keys`: API access, and requests that must not be executed twice."""

import uuid
from datetime import datetime

from sqlalchemy import Text
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.orm import Mapped, mapped_column

from service.db.base import Base, CreatedAt, new_id


class ApiKey(Base):
    """An API key, stored only as a hash. The row of a revoked key is kept, because the key's jobs refer to it."""

    __tablename__ = "api_keys"

    id: Mapped[uuid.UUID] = mapped_column(primary_key=True, default=new_id)
    name: Mapped[str]
    prefix: Mapped[str] = mapped_column(unique=True)
    """The first characters of the key, used to look it up and to recognize it."""
    hash: Mapped[str]
    """SHA-256 of the whole key in hexadecimal."""
    scopes: Mapped[list[str]] = mapped_column(ARRAY(Text))
    """One or more of `read`, `write` and `admin`."""
    max_open_jobs: Mapped[int | None]
    """Maximum number of unfinished jobs of this key, or null to use the setting."""
    requests_per_minute: Mapped[int | None]
    """Maximum number of requests per minute, or null to use the setting."""
    created_at: Mapped[CreatedAt]
    expires_at: Mapped[datetime | None]
    revoked_at: Mapped[datetime | None]
    last_used_at: Mapped[datetime | None]


class IdempotencyKey(Base):
    """A request with an `Idempotency-Key` header. The row is committed together with the request's effects."""

    __tablename__ = "idempotency_keys"

    scope: Mapped[uuid.UUID] = mapped_column(primary_key=True)
    """The id of the API key, or all zeros if no key is required."""
    key: Mapped[str] = mapped_column(primary_key=True)
    fingerprint: Mapped[str]
    """SHA-256 of the method, path, query and body in hexadecimal."""
    resource_id: Mapped[uuid.UUID | None]
    """Id of the resource that the request created or changed."""
    created_at: Mapped[CreatedAt] = mapped_column(index=True)
