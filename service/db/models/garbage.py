"""`garbage`: what the artifact store need not keep."""

from datetime import datetime

from sqlalchemy import Text, func
from sqlalchemy.orm import Mapped, mapped_column

from service.db.base import Base


class Garbage(Base):
    """A prefix of the artifact store that nothing refers to any more. The row goes when the files have gone."""

    __tablename__ = "garbage"

    prefix: Mapped[str] = mapped_column(Text, primary_key=True)
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())
