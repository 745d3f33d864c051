"""Tables for evaluating models: `benchmarks`, `evaluations`, and the records of evaluations."""

import uuid
from typing import Annotated, Any

from sqlalchemy import ForeignKey, Index, UniqueConstraint
from sqlalchemy.orm import Mapped, mapped_column, relationship, synonym

from service.contracts.benchmarks.data import Benchmark
from service.db.base import Base, BigInt, CreatedAt, StoredFile, new_id
from service.db.models.job import AttemptColumns, EventColumns, LogColumns, SupervisedJob, job_indexes

EvaluationId = Annotated[uuid.UUID, mapped_column(ForeignKey("evaluations.id", ondelete="CASCADE"))]
"""The evaluation that a row belongs to. The row is deleted together with the evaluation."""


class BenchmarkRow(Base):
    """One version of a benchmark. Importing different content under the same name adds another row.

    The name refers to the version imported last. Earlier versions are kept for the scores computed with them.
    """

    __tablename__ = "benchmarks"
    __table_args__ = (UniqueConstraint("name", "content_sha256"), Index(None, "name", "imported_at"))

    id: Mapped[uuid.UUID] = mapped_column(primary_key=True, default=new_id)
    name: Mapped[str]
    content_sha256: Mapped[str]
    """SHA-256 of the prompts, their test points and the judge's prompt template."""
    data_sha256: Mapped[str]
    """SHA-256 of the imported file."""
    pinned: Mapped[bool]
    """Whether the imported file is the official one."""
    prompt_count: Mapped[int]
    point_count: Mapped[int]
    about: Mapped[dict[str, Any]]
    """The `contracts.benchmarks.data.Benchmark` as JSON, without its prompts."""
    prompts: Mapped[list[dict[str, Any]]] = mapped_column(deferred=True)
    """The prompts as JSON. They take about a megabyte, so they are only loaded when needed."""
    imported_at: Mapped[CreatedAt]

    def benchmark(self) -> Benchmark:
        """Return the benchmark with its prompts."""
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
    """An evaluation of a checkpoint or base model on a benchmark."""

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
    """Null for the base model or for a checkpoint of a deleted run. The spec distinguishes the two."""
    benchmark_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("benchmarks.id"), index=True)
    benchmark: Mapped[BenchmarkRow] = relationship()
    judge: Mapped[dict[str, Any] | None]
    """The `JudgeEntry` at the time the evaluation was accepted, as JSON, or null if there is no judge."""
    prompts: Mapped[list[int]]
    """Indices of the benchmark prompts that are evaluated."""
    total_images: Mapped[int]
    scores: Mapped[dict[str, Any] | None]
    """The `contracts.benchmarks.scores.Scores` computed when the evaluation last ended, as JSON."""
    rewards: Mapped[dict[str, Any] | None]
    """The `contracts.evaluations.RewardMean` of each reward computed when the evaluation last ended, as JSON."""


class EvaluationImage(StoredFile, Base):
    """An image of an evaluation, stored as `INDEX_IMAGE.png`."""

    __tablename__ = "evaluation_images"

    evaluation_id: Mapped[EvaluationId] = mapped_column(primary_key=True, sort_order=-1)
    index: Mapped[int] = mapped_column(primary_key=True)
    """The prompt's index in the benchmark."""
    image_index: Mapped[int] = mapped_column(primary_key=True)
    seed: Mapped[BigInt]
    rewards: Mapped[dict[str, Any]]


class EvaluationAnswer(Base):
    """A judge's answer to the `number`-th request about an image. Only the newest answer is used."""

    __tablename__ = "evaluation_answers"

    evaluation_id: Mapped[EvaluationId] = mapped_column(primary_key=True, sort_order=-1)
    index: Mapped[int] = mapped_column(primary_key=True)
    image_index: Mapped[int] = mapped_column(primary_key=True)
    number: Mapped[int] = mapped_column(primary_key=True)
    scores: Mapped[list[int] | None]
    """0 or 1 for each test point of the prompt, in order, or null if the answer could not be read."""
    failure: Mapped[str | None]
    """A `contracts.benchmarks.judge_answers.Failure`, or null if the answer did not fail."""
    text: Mapped[str | None]
    """The text of the answer."""
    error: Mapped[str] = mapped_column(default="", server_default="")
    """The reason why there is no text."""
    seconds: Mapped[float]
    answered_at: Mapped[CreatedAt]
