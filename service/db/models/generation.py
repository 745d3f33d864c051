"""Tables `generations` and `generation_images`: images generated on request."""

import uuid

from sqlalchemy import ForeignKey
from sqlalchemy.orm import Mapped, mapped_column

from service.db.base import Base, BigInt, StoredFile
from service.db.models.job import Job, job_indexes


class Generation(Job, Base):
    """A request for images. In its spec, omitted values are filled in with the model's defaults."""

    __tablename__ = "generations"
    __table_args__ = job_indexes("generations")
    KIND = "generation"
    QUEUE = "generate"
    FOLDER = "generations"


class GenerationImage(StoredFile, Base):
    """An image of a generation.

    `number` is the image's position when sorted by checkpoint, then prompt, then image of the prompt, each in the order
    of the request.
    """

    __tablename__ = "generation_images"

    generation_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("generations.id", ondelete="CASCADE"), primary_key=True)
    number: Mapped[int] = mapped_column(primary_key=True)
    checkpoint: Mapped[str]
    """The id of a checkpoint, or `base`."""
    prompt_index: Mapped[int]
    image_index: Mapped[int]
    seed: Mapped[BigInt]
