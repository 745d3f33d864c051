"""Tables `deployments`, `workers` and `garbage`, which describe the installation itself."""

import uuid
from typing import Any

from sqlalchemy import func
from sqlalchemy.orm import Mapped, mapped_column

from service.db.base import Base, CreatedAt


class Deployment(Base):
    """The identity of this installation, in a single row. Artifacts are only deleted from stores with the same id."""

    __tablename__ = "deployments"

    id: Mapped[uuid.UUID] = mapped_column(primary_key=True, server_default=func.gen_random_uuid())
    created_at: Mapped[CreatedAt]


class Worker(Base):
    """A worker process, identified by the name under which it owns leases."""

    __tablename__ = "workers"

    name: Mapped[str] = mapped_column(primary_key=True)
    queue: Mapped[str]
    """The message queue that the worker serves, such as `train`."""
    device: Mapped[str]
    stats: Mapped[dict[str, Any]] = mapped_column(default=dict, server_default="{}")
    """The worker's latest statistics by metric name."""
    started_at: Mapped[CreatedAt]
    heartbeat_at: Mapped[CreatedAt]


class Garbage(Base):
    """A prefix in the artifact store that no other row refers to. This row is deleted after the files."""

    __tablename__ = "garbage"

    prefix: Mapped[str] = mapped_column(primary_key=True)
    created_at: Mapped[CreatedAt]
