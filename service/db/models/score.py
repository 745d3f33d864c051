"""`scores` and `score_images`: images and the values that rewards give them."""

import uuid
from typing import Any

from sqlalchemy import ForeignKey
from sqlalchemy.orm import Mapped, mapped_column

from service.db.base import Base, StoredFile
from service.db.models.job import Job, job_indexes


class Score(Job, Base):
    """A request to score images: `rewards`, and either uploaded images or those of a `generation`."""

    __tablename__ = "scores"
    __table_args__ = job_indexes("scores")
    KIND = "score"
    QUEUE = "generate"
    FOLDER = "scores"

    total_images: Mapped[int]
    rewards: Mapped[list[dict[str, Any]] | None]
    """`contracts.scores.RewardVersion` of each reward, as JSON; null before a worker has loaded them."""


class ScoreImage(StoredFile, Base):
    """An image to be scored. `number` counts in the request's order; a generation's images keep their numbers.

    The file is an RGB PNG. It can be a generation's, and is deleted with the generation after the job has ended.
    """

    __tablename__ = "score_images"

    score_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("scores.id", ondelete="CASCADE"), primary_key=True)
    number: Mapped[int] = mapped_column(primary_key=True)
    prompt: Mapped[str]
    width: Mapped[int]
    height: Mapped[int]
    values: Mapped[list[dict[str, Any]] | None]
    """`contracts.scores.RewardValue` of each reward, as JSON; null before the image is scored."""
