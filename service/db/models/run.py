"""`runs`: one alignment run."""

import uuid
from typing import Any, ClassVar, Literal

from sqlalchemy import BigInteger, Double, ForeignKey, Index, Integer, Text
from sqlalchemy.orm import Mapped, mapped_column

from service.contracts.status import RESTING, JobStatus
from service.db.base import Base
from service.db.models.job import Job, JobError, job_indexes


class Run(Job, Base):
    """What was asked for, what it resolved to, and where it stands. The spec is frozen: reads never validate it."""

    __tablename__ = "runs"
    __table_args__ = (
        *job_indexes("runs"),
        Index("ix_runs_labels", "labels", postgresql_using="gin", postgresql_ops={"labels": "jsonb_path_ops"}),
    )
    KIND: ClassVar[Literal["run", "generation"]] = "run"

    name: Mapped[str] = mapped_column(Text, default="")
    notes: Mapped[str] = mapped_column(Text, default="", server_default="")
    labels: Mapped[dict[str, Any]] = mapped_column(default=dict)
    model: Mapped[str] = mapped_column(Text, index=True)
    algorithm: Mapped[str] = mapped_column(Text)
    requested: Mapped[dict[str, Any]]
    """The request's body, as it came."""
    spec: Mapped[dict[str, Any]]
    """The resolved `RunSpec`, as JSON."""
    spec_version: Mapped[int] = mapped_column(Integer)
    plan: Mapped[dict[str, Any]]
    """The `contracts.plan.Plan` of the spec when it was accepted, as JSON without the spec."""
    seed: Mapped[int] = mapped_column(BigInteger)
    start_from: Mapped[uuid.UUID | None] = mapped_column(
        ForeignKey("checkpoints.id", name="fk_runs_start_from", use_alter=True), index=True
    )
    parent_id: Mapped[uuid.UUID | None] = mapped_column(ForeignKey("runs.id", ondelete="SET NULL"), index=True)
    """The run it is a clone of."""
    max_steps: Mapped[int] = mapped_column(Integer)
    """Optimizer steps to do: the spec's, unless a resumption asked for others."""
    resumed_attempt: Mapped[int] = mapped_column(Integer, default=0, server_default="0")
    """The newest attempt when it was last resumed: how that and those before it ended counts no more."""
    seconds_used: Mapped[float] = mapped_column(Double, default=0.0, server_default="0")
    """Seconds with a worker in the ended attempts since it was created or resumed."""
    checkpoint_requests: Mapped[int] = mapped_column(Integer, default=0, server_default="0")
    """How many checkpoints were asked for out of turn."""
    checkpoint_answers: Mapped[int] = mapped_column(Integer, default=0, server_default="0")
    """The newest of these requests that a stored checkpoint answers."""
    heldout: Mapped[dict[str, Any] | None]
    """`contracts.events.Finished.heldout`, as JSON: held-out rewards before and after."""
    last_event: Mapped[int] = mapped_column(BigInteger, default=0)
    """The newest id in `run_events`; `service.db.events.record` counts it up."""

    def move_to(self, new: JobStatus, error: JobError | None = None) -> None:
        """As every job; one that comes to rest has answered what was asked of it: nobody is left to save more."""
        super().move_to(new, error)
        if new in RESTING:
            self.checkpoint_answers = self.checkpoint_requests
