"""`generations` and `generation_images`: images made on request."""

import uuid

from sqlalchemy import BigInteger, ForeignKey, Integer, Text
from sqlalchemy.orm import Mapped, mapped_column

from service.db.base import Base
from service.db.models.job import Job, job_indexes


class Generation(Job, Base):
    """A request for images. The spec is frozen, with the model's own numbers in place of what was not said."""

    __tablename__ = "generations"
    __table_args__ = job_indexes("generations")
    KIND = "generation"
    QUEUE = "generate"
    FOLDER = "generations"


class GenerationImage(Base):
    """One image. `number` counts checkpoints, then prompts, then images of a prompt, each in the request's order."""

    __tablename__ = "generation_images"

    generation_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("generations.id", ondelete="CASCADE"), primary_key=True)
    number: Mapped[int] = mapped_column(Integer, primary_key=True, autoincrement=False)
    checkpoint: Mapped[str] = mapped_column(Text)
    """A checkpoint's id, or `base`."""
    prompt_index: Mapped[int] = mapped_column(Integer)
    image_index: Mapped[int] = mapped_column(Integer)
    seed: Mapped[int] = mapped_column(BigInteger)
    key: Mapped[str] = mapped_column(Text)
    sha256: Mapped[str] = mapped_column(Text)
    size: Mapped[int] = mapped_column(BigInteger)
