"""Tables `scores` and `score_images`: images and the values that rewards assign to them."""

import uuid
from typing import Any

from sqlalchemy import ForeignKey
from sqlalchemy.orm import Mapped, mapped_column

from service.db.base import Base, StoredFile
from service.db.models.job import Job, job_indexes


class Score(Job, Base):
    """A request to score images with `rewards`. The images are uploaded or come from a `generation`."""

    __tablename__ = "scores"
    __table_args__ = job_indexes("scores")
    KIND = "score"
    QUEUE = "generate"
    FOLDER = "scores"

    total_images: Mapped[int]
    rewards: Mapped[list[dict[str, Any]] | None]
    """The `contracts.scores.RewardVersion` of each reward as JSON, or null until a worker has loaded the rewards."""


class ScoreImage(StoredFile, Base):
    """An image to be scored, stored as an RGB PNG.

    `number` is the image's position in the request, or its number in the generation that it comes from. If the file
    belongs to a generation, it is deleted with that generation once the job has ended.
    """

    __tablename__ = "score_images"

    score_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("scores.id", ondelete="CASCADE"), primary_key=True)
    number: Mapped[int] = mapped_column(primary_key=True)
    prompt: Mapped[str]
    width: Mapped[int]
    height: Mapped[int]
    values: Mapped[list[dict[str, Any]] | None]
    """The `contracts.scores.RewardValue` of each reward as JSON, or null until the image has been scored."""
