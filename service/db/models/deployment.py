"""`deployments`, `workers` and `garbage`: the installation itself."""

import uuid
from typing import Any

from sqlalchemy import func
from sqlalchemy.orm import Mapped, mapped_column

from service.db.base import Base, CreatedAt


class Deployment(Base):
    """The identity of this installation, in one row. Artifacts are deleted only from stores that have the same id."""

    __tablename__ = "deployments"

    id: Mapped[uuid.UUID] = mapped_column(primary_key=True, server_default=func.gen_random_uuid())
    created_at: Mapped[CreatedAt]


class Worker(Base):
    """A worker process, by the name that owns its leases."""

    __tablename__ = "workers"

    name: Mapped[str] = mapped_column(primary_key=True)
    queue: Mapped[str]
    """`train` or `generate`."""
    device: Mapped[str]
    stats: Mapped[dict[str, Any]] = mapped_column(default=dict, server_default="{}")
    """Its last measurements of itself, by metric name."""
    started_at: Mapped[CreatedAt]
    heartbeat_at: Mapped[CreatedAt]


class Garbage(Base):
    """A prefix of the artifact store that no row refers to. The row is deleted after the files."""

    __tablename__ = "garbage"

    prefix: Mapped[str] = mapped_column(primary_key=True)
    created_at: Mapped[CreatedAt]
