"""`benchmarks`, `evaluations` and their records: models evaluated on benchmarks."""

import uuid
from typing import Annotated, Any

from sqlalchemy import ForeignKey, Index, UniqueConstraint
from sqlalchemy.orm import Mapped, mapped_column, relationship, synonym

from service.contracts.benchmarks.data import Benchmark
from service.db.base import Base, BigInt, CreatedAt, StoredFile, new_id
from service.db.models.job import AttemptColumns, EventColumns, LogColumns, SupervisedJob, job_indexes

EvaluationId = Annotated[uuid.UUID, mapped_column(ForeignKey("evaluations.id", ondelete="CASCADE"))]
"""The evaluation that a row belongs to and is deleted with."""


class BenchmarkRow(Base):
    """One version of a benchmark. An import of other contents under the same name is another row.

    The name refers to the version imported last; earlier ones stay for the scores that were computed with them.
    """

    __tablename__ = "benchmarks"
    __table_args__ = (UniqueConstraint("name", "content_sha256"), Index(None, "name", "imported_at"))

    id: Mapped[uuid.UUID] = mapped_column(primary_key=True, default=new_id)
    name: Mapped[str]
    content_sha256: Mapped[str]
    """Of the prompts, their test points and the text of the judge's prompt."""
    data_sha256: Mapped[str]
    """Of the imported file."""
    pinned: Mapped[bool]
    """Whether that file is the official one."""
    prompt_count: Mapped[int]
    point_count: Mapped[int]
    about: Mapped[dict[str, Any]]
    """`contracts.benchmarks.data.Benchmark` without its prompts, as JSON."""
    prompts: Mapped[list[dict[str, Any]]] = mapped_column(deferred=True)
    """About a megabyte, which lists do not need."""
    imported_at: Mapped[CreatedAt]

    def benchmark(self) -> Benchmark:
        """The benchmark with its prompts."""
        return Benchmark.model_validate({**self.about, "prompts": self.prompts})


class EvaluationAttempt(AttemptColumns, Base):
    """One attempt at an evaluation."""

    __tablename__ = "evaluation_attempts"

    evaluation_id: Mapped[EvaluationId] = mapped_column(primary_key=True, sort_order=-1)
    job_id = synonym("evaluation_id")


class EvaluationEvent(EventColumns, Base):
    """An event of an evaluation."""

    __tablename__ = "evaluation_events"

    evaluation_id: Mapped[EvaluationId] = mapped_column(primary_key=True, sort_order=-1)
    job_id = synonym("evaluation_id")


class EvaluationLogChunk(LogColumns, Base):
    """A part of the log of an evaluation's attempt."""

    __tablename__ = "evaluation_log_chunks"

    evaluation_id: Mapped[EvaluationId] = mapped_column(primary_key=True, sort_order=-1)
    job_id = synonym("evaluation_id")


class Evaluation(SupervisedJob, Base):
    """A checkpoint or base model on a benchmark."""

    __tablename__ = "evaluations"
    __table_args__ = job_indexes("evaluations")
    KIND = "evaluation"
    QUEUE = "evaluate"
    FOLDER = "evaluations"
    ATTEMPTS = EvaluationAttempt
    EVENTS = EvaluationEvent
    LOGS = EvaluationLogChunk

    name: Mapped[str] = mapped_column(default="")
    model: Mapped[str] = mapped_column(index=True)
    checkpoint_id: Mapped[uuid.UUID | None] = mapped_column(
        ForeignKey("checkpoints.id", ondelete="SET NULL"), index=True
    )
    """Null: the base model, or a checkpoint of a deleted run; the spec has the difference."""
    benchmark_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("benchmarks.id"), index=True)
    benchmark: Mapped[BenchmarkRow] = relationship()
    judge: Mapped[dict[str, Any] | None]
    """The `JudgeEntry` when the evaluation was accepted, as JSON; null: no judge."""
    prompts: Mapped[list[int]]
    """The indices of the benchmark's prompts that are evaluated."""
    total_images: Mapped[int]
    scores: Mapped[dict[str, Any] | None]
    """`contracts.benchmarks.scores.Scores` of all answers when it last ended, as JSON."""
    rewards: Mapped[dict[str, Any] | None]
    """`contracts.evaluations.RewardMean` by reward when it last ended, as JSON."""


class EvaluationImage(StoredFile, Base):
    """An image of an evaluation: `INDEX_IMAGE.png`."""

    __tablename__ = "evaluation_images"

    evaluation_id: Mapped[EvaluationId] = mapped_column(primary_key=True, sort_order=-1)
    index: Mapped[int] = mapped_column(primary_key=True)
    """The prompt's index in the benchmark."""
    image_index: Mapped[int] = mapped_column(primary_key=True)
    seed: Mapped[BigInt]
    rewards: Mapped[dict[str, Any]]


class EvaluationAnswer(Base):
    """A judge's answer to the `number`-th request about an image; the newest one counts."""

    __tablename__ = "evaluation_answers"

    evaluation_id: Mapped[EvaluationId] = mapped_column(primary_key=True, sort_order=-1)
    index: Mapped[int] = mapped_column(primary_key=True)
    image_index: Mapped[int] = mapped_column(primary_key=True)
    number: Mapped[int] = mapped_column(primary_key=True)
    scores: Mapped[list[int] | None]
    """0 or 1 for each test point of the prompt, in their order; null: the answer is unreadable."""
    failure: Mapped[str | None]
    """A `contracts.benchmarks.judging.Failure`."""
    text: Mapped[str | None]
    """The text of the answer."""
    error: Mapped[str] = mapped_column(default="", server_default="")
    """Why there is no text."""
    seconds: Mapped[float]
    answered_at: Mapped[CreatedAt]
