"""Tables for runs and their records: attempts, events, logs, metrics, reward groups and sample images."""

import uuid
from typing import Annotated, Any

from sqlalchemy import REAL, ForeignKey, Index, PrimaryKeyConstraint, UniqueConstraint
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.orm import Mapped, mapped_column, synonym

from service.contracts.status import INACTIVE, JobStatus
from service.db.base import Base, BigInt, StoredFile, new_id
from service.db.models.job import AttemptColumns, EventColumns, JobError, LogColumns, SupervisedJob, job_indexes

RunId = Annotated[uuid.UUID, mapped_column(ForeignKey("runs.id", ondelete="CASCADE"))]
"""The run that a row belongs to. The row is deleted together with the run."""


class Attempt(AttemptColumns, Base):
    """One attempt at a run."""

    __tablename__ = "attempts"

    run_id: Mapped[RunId] = mapped_column(primary_key=True, sort_order=-1)
    job_id = synonym("run_id")
    resumed_at: Mapped[int] = mapped_column(default=0)
    """Number of optimizer steps completed by earlier attempts."""
    max_steps: Mapped[int]
    """Total number of optimizer steps after which the attempt ends."""


class RunEvent(EventColumns, Base):
    """An event of a run."""

    __tablename__ = "run_events"

    run_id: Mapped[RunId] = mapped_column(primary_key=True, sort_order=-1)
    job_id = synonym("run_id")


class LogChunk(LogColumns, Base):
    """A part of the log of a run's attempt."""

    __tablename__ = "log_chunks"

    run_id: Mapped[RunId] = mapped_column(primary_key=True, sort_order=-1)
    job_id = synonym("run_id")


class Run(SupervisedJob, Base):
    """An alignment run."""

    __tablename__ = "runs"
    __table_args__ = (
        *job_indexes("runs"),
        Index("ix_runs_labels", "labels", postgresql_using="gin", postgresql_ops={"labels": "jsonb_path_ops"}),
    )
    KIND = "run"
    QUEUE = "train"
    FOLDER = "runs"
    ATTEMPTS = Attempt
    EVENTS = RunEvent
    LOGS = LogChunk

    name: Mapped[str] = mapped_column(default="")
    notes: Mapped[str] = mapped_column(default="", server_default="")
    labels: Mapped[dict[str, Any]] = mapped_column(default=dict)
    model: Mapped[str] = mapped_column(index=True)
    algorithm: Mapped[str]
    plan: Mapped[dict[str, Any]]
    """The `contracts.plan.Plan` at the time the run was accepted, as JSON, without the spec."""
    seed: Mapped[BigInt]
    prompt_sets: Mapped[dict[str, Any]] = mapped_column(default=dict, server_default="{}")
    """Ids, by name, of the uploaded prompt sets that the spec referred to when the run was accepted."""
    start_from: Mapped[uuid.UUID | None] = mapped_column(
        ForeignKey("checkpoints.id", name="fk_runs_start_from", use_alter=True), index=True
    )
    parent_id: Mapped[uuid.UUID | None] = mapped_column(ForeignKey("runs.id", ondelete="SET NULL"), index=True)
    """The run that this run was cloned from."""
    max_steps: Mapped[int]
    """Total number of optimizer steps, from the spec or the last resume request."""
    checkpoint_requests: Mapped[int] = mapped_column(default=0, server_default="0")
    """Number of requests for an immediate checkpoint."""
    checkpoint_answers: Mapped[int] = mapped_column(default=0, server_default="0")
    """Number of the newest checkpoint request that a stored checkpoint has fulfilled."""
    heldout: Mapped[dict[str, Any] | None]
    """The `contracts.events.Finished.heldout` as JSON: held-out rewards before and after the run."""

    def move_to(self, new: JobStatus, error: JobError | None = None) -> None:
        """Change the status as for any job, and close open checkpoint requests if the run is now paused or ended."""
        super().move_to(new, error)
        if new in INACTIVE:
            self.checkpoint_answers = self.checkpoint_requests


class Metric(Base):
    """The value of a metric after an optimizer step of an attempt, or null if it is not finite.

    The primary key is ordered for reading curves: the steps of a metric are adjacent, the newest attempt of each step
    comes last, and the index includes the value.
    """

    __tablename__ = "metrics"
    __table_args__ = (PrimaryKeyConstraint("run_id", "name", "step", "attempt", postgresql_include=["value"]),)

    run_id: Mapped[RunId]
    name: Mapped[str]
    step: Mapped[int]
    attempt: Mapped[int]
    value: Mapped[float | None]


class RewardGroup(Base):
    """The G reward values of a group (a prompt, SDE step and granularity). A value is null if the reward failed."""

    __tablename__ = "reward_groups"
    __table_args__ = (
        PrimaryKeyConstraint("run_id", "step", "prompt_index", "sde_step", "granularity", "reward", "attempt"),
    )

    run_id: Mapped[RunId]
    step: Mapped[int]
    prompt_index: Mapped[int]
    sde_step: Mapped[int]
    granularity: Mapped[int]
    reward: Mapped[str]
    attempt: Mapped[int]
    prompt: Mapped[str]
    values: Mapped[list[float | None]] = mapped_column(ARRAY(REAL))


class Sample(StoredFile, Base):
    """A held-out image, or an image of a group."""

    __tablename__ = "samples"
    __table_args__ = (UniqueConstraint("run_id", "step", "kind", "index", "attempt"),)

    id: Mapped[uuid.UUID] = mapped_column(primary_key=True, default=new_id)
    run_id: Mapped[RunId]
    attempt: Mapped[int]
    step: Mapped[int]
    kind: Mapped[str]
    """`heldout`, `best`, `worst` or `group`."""
    index: Mapped[int]
    prompt: Mapped[str]
    rewards: Mapped[dict[str, Any]]
    sde_step: Mapped[int | None]
    granularity: Mapped[int | None]
