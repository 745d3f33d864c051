"""`deployments`: which installation this is."""

import uuid
from datetime import datetime

from sqlalchemy import func
from sqlalchemy.orm import Mapped, mapped_column

from service.db.base import Base


class Deployment(Base):
    """The one row says whose artifacts may be collected here: a store, or a disk, keeps the same id."""

    __tablename__ = "deployments"

    id: Mapped[uuid.UUID] = mapped_column(primary_key=True, server_default=func.gen_random_uuid())
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())
