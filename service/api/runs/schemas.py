"""Request and response models for runs."""

from datetime import datetime
from typing import Annotated, Any
from uuid import UUID

from pydantic import BaseModel, Field, StringConstraints, model_validator

from service.contracts.base import FREE_TEXT, Contract, DisplayName
from service.contracts.events import HeldoutSummary
from service.contracts.runs import Labels
from service.http.pagination import RowView, Text
from service.jobs.views import JobFilters, JobView

LabelFilter = Annotated[str, StringConstraints(pattern=r"^[^\x00:]{1,100}:[^\x00]{1,100}$")]


class RunFilters(JobFilters):
    """Query parameters of the run list. A run must match all filters and, if any are given, one of the statuses."""

    algorithm: Text | None = Field(None, description="The algorithm's name.")
    model: Text | None = Field(None, description="The model's name.")
    label: list[LabelFilter] = Field([], max_length=32, description="A label of the run, as `key:value`.")


class ResumeRequest(Contract):
    """The fields that can be changed when a run is resumed."""

    max_steps: int | None = Field(
        None, ge=1, le=1_000_000, description="Total number of optimizer steps; null to keep the previous number."
    )

    @model_validator(mode="before")
    @classmethod
    def _max_steps_only(cls, data: Any) -> Any:
        others = sorted(set(data) - {"max_steps"}) if isinstance(data, dict) else []
        if others:
            raise ValueError(
                f"{', '.join(others)}: resuming a run can change `max_steps` only; "
                "clone it (POST /runs/{id}/clone) to change other fields"
            )
        return data


class RunChanges(Contract):
    """The fields of a run that can be changed. Omitted fields keep their value."""

    name: DisplayName = Field("", description="Display name.")
    notes: Annotated[str, StringConstraints(max_length=20_000), FREE_TEXT] = Field("", description="Free text.")
    labels: Labels = Field({}, description="Up to 32 labels, which replace the current ones.")
    priority: int = Field(
        0,
        ge=-100,
        le=100,
        description="Runs with a smaller number are claimed first; among equal numbers, the oldest run.",
    )


class AttemptView(RowView):
    """An attempt by a worker to execute a run."""

    number: int
    worker: str = Field(description="The worker's name.")
    started_at: datetime
    ended_at: datetime | None
    outcome: str | None = Field(
        description="`succeeded`, `failed`, `cancelled`, `paused` or `interrupted`; null until the attempt ends."
    )
    lost: bool = Field(description="Whether the worker or its process disappeared during the attempt.")
    resumed_at: int = Field(description="Number of optimizer steps completed before the attempt.")
    max_steps: int = Field(description="Total number of optimizer steps.")
    provenance: dict[str, Any] | None = Field(
        description="Device, threads, package versions, git commit, and hashes of weights and prompts; null until "
        "the process has loaded them."
    )


class RunSummary(JobView):
    """The summary of a run, as returned in lists."""

    name: str
    labels: dict[str, str] = Field(examples=[{"paper": "table-2"}])
    model: str = Field(examples=["shapes-flux"])
    algorithm: str = Field(examples=["g2rpo"])
    max_steps: int = Field(description="Total number of optimizer steps, from the spec or the last resume request.")
    start_from: UUID | None = Field(description="The checkpoint that the run started from; null for the base model.")
    parent_id: UUID | None = Field(description="The run that this run was cloned from; null if it is not a clone.")
    heldout: dict[str, HeldoutSummary] | None = Field(
        description="Held-out rewards before and after training; null until the run has succeeded."
    )


class LatestMetric(BaseModel):
    """The latest value of a metric."""

    step: int = Field(description="Number of optimizer steps completed.")
    value: float | None = Field(description="The value; null if it is not finite.")


class RunView(RunSummary):
    """The full details of a run."""

    spec: dict[str, Any] = Field(
        description="The resolved spec; see the body of `POST /runs`.",
        examples=[{"preset": "shapes", "training": {"max_steps": 60, "seed": 42}}],
    )
    spec_version: int
    notes: str
    seconds_used: float = Field(
        description="Total duration of the attempts that have ended since the run was created or last resumed."
    )
    checkpoint_pending: bool = Field(description="Whether a requested checkpoint has not been stored yet.")
    queue_position: int | None = Field(description="1 if it is claimed next; null if the run is not waiting.")
    eta_seconds: float | None = Field(
        description="Estimated remaining seconds; null if the run is not running or no step has been timed yet."
    )
    resources: dict[str, Any] = Field(
        description="The spec's `resources`.", examples=[{"nodes": 1, "processes_per_node": 1}]
    )
    plan: dict[str, Any] = Field(
        description="The cost estimated when the run was created; see `POST /plans`.",
        examples=[{"per_prompt": {"total": 332}, "saved_share": 0.42}],
    )
    prompt_sets: dict[str, UUID] = Field(
        description="Ids of the uploaded prompt sets used by the spec, by name, resolved when the run was created."
    )
    metrics: dict[str, LatestMetric] = Field(
        description="The latest value of each metric.", examples=[{"heldout/clip_score": {"step": 10, "value": 0.71}}]
    )
