"""`evaluations` and what belongs to them: models judged on benchmarks."""

import uuid
from datetime import datetime
from typing import Any

from sqlalchemy import BigInteger, Double, ForeignKey, Integer, Text, func
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import Mapped, mapped_column, relationship, synonym

from service.db.base import Base
from service.db.models.benchmark import BenchmarkRow
from service.db.models.job import job_indexes
from service.db.models.supervised import AttemptColumns, EventColumns, LogColumns, SupervisedJob


def _evaluation_id() -> Mapped[uuid.UUID]:
    return mapped_column(ForeignKey("evaluations.id", ondelete="CASCADE"), primary_key=True, sort_order=-1)


class EvaluationAttempt(AttemptColumns, Base):
    """One try at an evaluation."""

    __tablename__ = "evaluation_attempts"

    evaluation_id: Mapped[uuid.UUID] = _evaluation_id()
    job_id = synonym("evaluation_id")


class EvaluationEvent(EventColumns, Base):
    """Something that happened to an evaluation."""

    __tablename__ = "evaluation_events"

    evaluation_id: Mapped[uuid.UUID] = _evaluation_id()
    job_id = synonym("evaluation_id")


class EvaluationLogChunk(LogColumns, Base):
    """A piece of the log of an evaluation's attempt."""

    __tablename__ = "evaluation_log_chunks"

    evaluation_id: Mapped[uuid.UUID] = _evaluation_id()
    job_id = synonym("evaluation_id")


class Evaluation(SupervisedJob, Base):
    """A checkpoint or base model, judged on a benchmark. The spec is frozen."""

    __tablename__ = "evaluations"
    __table_args__ = job_indexes("evaluations")
    KIND = "evaluation"
    QUEUE = "evaluate"
    FOLDER = "evaluations"
    ATTEMPTS = EvaluationAttempt
    EVENTS = EvaluationEvent
    LOGS = EvaluationLogChunk

    name: Mapped[str] = mapped_column(Text, default="")
    model: Mapped[str] = mapped_column(Text, index=True)
    checkpoint_id: Mapped[uuid.UUID | None] = mapped_column(
        ForeignKey("checkpoints.id", ondelete="SET NULL"), index=True
    )
    """Null: the base model, or a checkpoint whose run was deleted; the spec says which."""
    benchmark_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("benchmarks.id"), index=True)
    benchmark: Mapped[BenchmarkRow] = relationship()
    judge: Mapped[dict[str, Any] | None]
    """The `JudgeEntry` as it was when the evaluation was accepted, as JSON; null: nobody judges."""
    prompts: Mapped[list[int]] = mapped_column(JSONB)
    """The numbers of the benchmark's prompts that are drawn."""
    total_images: Mapped[int] = mapped_column(Integer)
    scores: Mapped[dict[str, Any] | None]
    """`contracts.benchmarks.scores.Scores` of all answers when it last ended, as JSON."""
    rewards: Mapped[dict[str, Any] | None]
    """`contracts.evaluations.RewardMean` by reward when it last ended, as JSON."""


class EvaluationImage(Base):
    """An image of an evaluation: `INDEX_IMAGE.png`."""

    __tablename__ = "evaluation_images"

    evaluation_id: Mapped[uuid.UUID] = _evaluation_id()
    index: Mapped[int] = mapped_column(Integer, primary_key=True, autoincrement=False)
    """The prompt's number in the benchmark."""
    image_index: Mapped[int] = mapped_column(Integer, primary_key=True, autoincrement=False)
    seed: Mapped[int] = mapped_column(BigInteger)
    rewards: Mapped[dict[str, Any]]
    key: Mapped[str] = mapped_column(Text)
    sha256: Mapped[str] = mapped_column(Text)
    size: Mapped[int] = mapped_column(BigInteger)


class EvaluationAnswer(Base):
    """What a judge said of an image when it was asked for the `number`-th time; the newest one counts."""

    __tablename__ = "evaluation_answers"

    evaluation_id: Mapped[uuid.UUID] = _evaluation_id()
    index: Mapped[int] = mapped_column(Integer, primary_key=True, autoincrement=False)
    image_index: Mapped[int] = mapped_column(Integer, primary_key=True, autoincrement=False)
    number: Mapped[int] = mapped_column(Integer, primary_key=True, autoincrement=False)
    scores: Mapped[list[int] | None] = mapped_column(JSONB(none_as_null=True))
    """0 or 1 for each test point of the prompt, in their order; null: the answer could not be read."""
    failure: Mapped[str | None] = mapped_column(Text)
    """A `contracts.benchmarks.judging.Failure`."""
    text: Mapped[str | None] = mapped_column(Text)
    """The judge's own words."""
    error: Mapped[str] = mapped_column(Text, default="", server_default="")
    """Why there are no words."""
    seconds: Mapped[float] = mapped_column(Double)
    answered_at: Mapped[datetime] = mapped_column(server_default=func.now())
