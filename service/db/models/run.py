"""`runs`: one alignment run."""

import uuid
from typing import Any

from sqlalchemy import BigInteger, ForeignKey, Index, Integer, Text
from sqlalchemy.orm import Mapped, mapped_column

from service.contracts.status import RESTING, JobStatus
from service.db.base import Base
from service.db.models.attempt import Attempt
from service.db.models.job import JobError, job_indexes
from service.db.models.log_chunk import LogChunk
from service.db.models.run_event import RunEvent
from service.db.models.supervised import SupervisedJob


class Run(SupervisedJob, Base):
    """What was asked for, what it resolved to, and where it stands. The spec is frozen: reads never validate it."""

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

    name: Mapped[str] = mapped_column(Text, default="")
    notes: Mapped[str] = mapped_column(Text, default="", server_default="")
    labels: Mapped[dict[str, Any]] = mapped_column(default=dict)
    model: Mapped[str] = mapped_column(Text, index=True)
    algorithm: Mapped[str] = mapped_column(Text)
    plan: Mapped[dict[str, Any]]
    """The `contracts.plan.Plan` of the spec when it was accepted, as JSON without the spec."""
    seed: Mapped[int] = mapped_column(BigInteger)
    prompt_sets: Mapped[dict[str, Any]] = mapped_column(default=dict, server_default="{}")
    """By name, the id of each uploaded prompt set that the spec's names meant when the run was accepted."""
    start_from: Mapped[uuid.UUID | None] = mapped_column(
        ForeignKey("checkpoints.id", name="fk_runs_start_from", use_alter=True), index=True
    )
    parent_id: Mapped[uuid.UUID | None] = mapped_column(ForeignKey("runs.id", ondelete="SET NULL"), index=True)
    """The run it is a clone of."""
    max_steps: Mapped[int] = mapped_column(Integer)
    """Optimizer steps to do: the spec's, unless a resumption asked for others."""
    checkpoint_requests: Mapped[int] = mapped_column(Integer, default=0, server_default="0")
    """How many checkpoints were asked for out of turn."""
    checkpoint_answers: Mapped[int] = mapped_column(Integer, default=0, server_default="0")
    """The newest of these requests that a stored checkpoint answers."""
    heldout: Mapped[dict[str, Any] | None]
    """`contracts.events.Finished.heldout`, as JSON: held-out rewards before and after."""

    def move_to(self, new: JobStatus, error: JobError | None = None) -> None:
        """As every job; one that comes to rest has answered what was asked of it: nobody is left to save more."""
        super().move_to(new, error)
        if new in RESTING:
            self.checkpoint_answers = self.checkpoint_requests
