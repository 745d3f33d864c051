"""`scores` and `score_images`: given images and what rewards say of them."""

import uuid
from typing import Any

from sqlalchemy import BigInteger, ForeignKey, Integer, Text
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import Mapped, mapped_column

from service.db.base import Base
from service.db.models.job import Job, job_indexes


class Score(Job, Base):
    """A request for rewards of images. The spec is frozen."""

    __tablename__ = "scores"
    __table_args__ = job_indexes("scores")
    KIND = "score"
    QUEUE = "generate"
    FOLDER = "scores"

    total_images: Mapped[int] = mapped_column(Integer)
    rewards: Mapped[list[dict[str, Any]] | None] = mapped_column(JSONB(none_as_null=True))
    """`contracts.scores.RewardVersion` of each reward, as JSON; null before a worker has loaded them."""


class ScoreImage(Base):
    """An image to be scored. `number` counts in the request's order; a generation's keep their numbers."""

    __tablename__ = "score_images"

    score_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("scores.id", ondelete="CASCADE"), primary_key=True)
    number: Mapped[int] = mapped_column(Integer, primary_key=True, autoincrement=False)
    prompt: Mapped[str] = mapped_column(Text)
    width: Mapped[int] = mapped_column(Integer)
    height: Mapped[int] = mapped_column(Integer)
    key: Mapped[str] = mapped_column(Text)
    """Of an RGB PNG in the artifact store, which may be a generation's, and deleted with it once the scoring ended."""
    sha256: Mapped[str] = mapped_column(Text)
    size: Mapped[int] = mapped_column(BigInteger)
    values: Mapped[list[dict[str, Any]] | None] = mapped_column(JSONB(none_as_null=True))
    """`contracts.scores.RewardValue` of each reward, as JSON; null until it was scored."""
