"""How runs are asked for and shown."""

from datetime import datetime
from typing import Annotated, Any
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, model_validator

from service.contracts.base import Contract, Moment
from service.contracts.events import HeldoutSummary
from service.contracts.runs import Labels
from service.contracts.status import JobStatus
from service.http.pagination import PageQuery, Text
from service.jobs.views import JobView

LabelFilter = Annotated[str, StringConstraints(pattern=r"^[^\x00:]{1,100}:[^\x00]{1,100}$")]


class RunFilters(PageQuery):
    """Which runs to list; several statuses are alternatives, everything else must hold together."""

    status: list[JobStatus] = Field([], max_length=len(JobStatus), description="One of these states.")
    algorithm: Text | None = Field(None, description="The algorithm's name.")
    model: Text | None = Field(None, description="The model's name.")
    label: list[LabelFilter] = Field([], max_length=32, description="`key:value`, a label the run must have.")
    created_after: Moment | None = Field(None, description="Created at or after this time.")
    created_before: Moment | None = Field(None, description="Created before this time.")


class Resumption(Contract):
    """What a resumed run may do otherwise than before."""

    max_steps: int | None = Field(
        None, ge=1, le=1_000_000, description="Optimizer steps to reach; null: as many as before."
    )

    @model_validator(mode="before")
    @classmethod
    def _nothing_else(cls, data: Any) -> Any:
        others = sorted(set(data) - {"max_steps"}) if isinstance(data, dict) else []
        if others:
            raise ValueError(
                f"{', '.join(others)}: a resumed run goes on exactly as it was, with other `max_steps` at most; "
                "clone it (POST /runs/{id}/clone) to change anything else"
            )
        return data


class RunChanges(Contract):
    """What may be changed of a run; what is unsaid stays."""

    name: str = Field("", max_length=200, pattern=r"^[^\x00]*$", description="A name for people.")
    notes: str = Field("", max_length=20_000, pattern=r"^[^\x00]*$", description="Whatever people want to remember.")
    labels: Labels = Field({}, description="Up to 32 labels; they replace those there.")
    priority: int = Field(0, ge=-100, le=100, description="Smaller is taken earlier; equal ones by age.")


class AttemptFilters(PageQuery):
    """Which page to list."""


class AttemptView(BaseModel):
    """One try at a run."""

    model_config = ConfigDict(from_attributes=True)

    number: int
    worker: str = Field(description="Who tried.")
    started_at: datetime
    ended_at: datetime | None
    outcome: str | None = Field(
        description="How it ended: `succeeded`, `failed`, `cancelled`, `paused`, `interrupted`; null while it lasts."
    )
    lost: bool = Field(description="Whether its worker or process disappeared.")
    resumed_at: int = Field(description="Optimizer steps done when it began.")
    max_steps: int = Field(description="Optimizer steps it was to reach.")
    provenance: dict[str, Any] | None = Field(
        description="What it ran on and with: device, threads, package versions, git commit, hashes of weights and "
        "prompts. Null until its process has loaded them."
    )


class RunSummary(JobView):
    """A run in a list."""

    name: str
    labels: dict[str, str] = Field(examples=[{"paper": "table-2"}])
    model: str = Field(examples=["shapes-flux"])
    algorithm: str = Field(examples=["g2rpo"])
    max_steps: int = Field(description="Optimizer steps to do: the spec's, unless a resumption asked for others.")
    start_from: UUID | None = Field(description="The checkpoint it started from.")
    parent_id: UUID | None = Field(description="The run it is a clone of.")
    heldout: dict[str, HeldoutSummary] | None = Field(description="Held-out rewards before and after, once it is done.")


class LatestMetric(BaseModel):
    """The newest value of a metric."""

    step: int = Field(description="Optimizer steps done.")
    value: float | None = Field(description="Null where it was not finite.")


class RunView(RunSummary):
    """A run in full."""

    spec: dict[str, Any] = Field(
        description="The resolved spec, as it was accepted: see the body of `POST /runs`.",
        examples=[{"preset": "shapes", "training": {"max_steps": 60, "seed": 42}}],
    )
    spec_version: int
    notes: str
    seconds_used: float = Field(description="Seconds with a worker in ended attempts since it was created or resumed.")
    checkpoint_pending: bool = Field(description="Whether a checkpoint was asked for that is not stored yet.")
    queue_position: int | None = Field(description="1 is taken next; null when it does not wait.")
    eta_seconds: float | None = Field(description="Estimated seconds to the end; null until a step has been timed.")
    resources: dict[str, Any] = Field(
        description="What it is given: see `resources` of the spec.", examples=[{"nodes": 1, "processes_per_node": 1}]
    )
    plan: dict[str, Any] = Field(
        description="Its cost as planned when it was accepted: see `POST /plans`.",
        examples=[{"per_prompt": {"total": 332}, "saved_share": 0.42}],
    )
    prompt_sets: dict[str, UUID] = Field(
        description="Ids of the uploaded prompt sets that it names, as they were when it was accepted."
    )
    metrics: dict[str, LatestMetric] = Field(
        description="The newest value of every metric.", examples=[{"heldout/clip_score": {"step": 10, "value": 0.71}}]
    )
