"""Requests and views of runs."""

from datetime import datetime
from typing import Annotated, Any
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, model_validator

from service.contracts.base import Contract
from service.contracts.events import HeldoutSummary
from service.contracts.runs import Labels
from service.http.pagination import Text
from service.jobs.views import JobFilters, JobView

LabelFilter = Annotated[str, StringConstraints(pattern=r"^[^\x00:]{1,100}:[^\x00]{1,100}$")]


class RunFilters(JobFilters):
    """The filters of the list of runs; several statuses are alternatives, all other filters must hold."""

    algorithm: Text | None = Field(None, description="The algorithm's name.")
    model: Text | None = Field(None, description="The model's name.")
    label: list[LabelFilter] = Field([], max_length=32, description="`key:value`, a label of the run.")


class ResumeRequest(Contract):
    """The changes of a resumed run."""

    max_steps: int | None = Field(
        None, ge=1, le=1_000_000, description="Optimizer steps to reach; null: the same number as before."
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
    """The fields of a run that can change; fields that the request omits stay as they are."""

    name: str = Field("", max_length=200, pattern=r"^[^\x00]*$", description="Display name.")
    notes: str = Field("", max_length=20_000, pattern=r"^[^\x00]*$", description="Free text.")
    labels: Labels = Field({}, description="Up to 32 labels, which replace the current ones.")
    priority: int = Field(
        0, ge=-100, le=100, description="Runs with a smaller number are claimed first; among equals the oldest."
    )


class AttemptView(BaseModel):
    """An attempt at a run by a worker."""

    model_config = ConfigDict(from_attributes=True)

    number: int
    worker: str = Field(description="The worker's name.")
    started_at: datetime
    ended_at: datetime | None
    outcome: str | None = Field(
        description="`succeeded`, `failed`, `cancelled`, `paused` or `interrupted`; null while the attempt lasts."
    )
    lost: bool = Field(description="Whether its worker or process disappeared.")
    resumed_at: int = Field(description="Optimizer steps completed before the attempt.")
    max_steps: int = Field(description="Optimizer steps to reach.")
    provenance: dict[str, Any] | None = Field(
        description="Device, threads, package versions, git commit, hashes of weights and prompts; null until the "
        "process has loaded them."
    )


class RunSummary(JobView):
    """A run as listed."""

    name: str
    labels: dict[str, str] = Field(examples=[{"paper": "table-2"}])
    model: str = Field(examples=["shapes-flux"])
    algorithm: str = Field(examples=["g2rpo"])
    max_steps: int = Field(description="Optimizer steps to reach: those of the spec, or of the last resume request.")
    start_from: UUID | None = Field(description="The checkpoint that the run started from.")
    parent_id: UUID | None = Field(description="The run that was cloned.")
    heldout: dict[str, HeldoutSummary] | None = Field(
        description="Held-out rewards before and after training; null until the run has succeeded."
    )


class LatestMetric(BaseModel):
    """The latest value of a metric."""

    step: int = Field(description="Optimizer steps completed.")
    value: float | None = Field(description="Null for a value that is not finite.")


class RunView(RunSummary):
    """A run in full."""

    spec: dict[str, Any] = Field(
        description="The resolved spec; see the body of `POST /runs`.",
        examples=[{"preset": "shapes", "training": {"max_steps": 60, "seed": 42}}],
    )
    spec_version: int
    notes: str
    seconds_used: float = Field(description="Duration of the ended attempts since the run was created or resumed.")
    checkpoint_pending: bool = Field(description="Whether a requested checkpoint is not stored yet.")
    queue_position: int | None = Field(description="1: claimed next; null for a run that is not waiting.")
    eta_seconds: float | None = Field(description="Estimated seconds to the end; null until a step has been timed.")
    resources: dict[str, Any] = Field(
        description="`resources` of the spec.", examples=[{"nodes": 1, "processes_per_node": 1}]
    )
    plan: dict[str, Any] = Field(
        description="The planned cost at creation; see `POST /plans`.",
        examples=[{"per_prompt": {"total": 332}, "saved_share": 0.42}],
    )
    prompt_sets: dict[str, UUID] = Field(
        description="The ids of the uploaded prompt sets in the spec, by name, resolved at creation."
    )
    metrics: dict[str, LatestMetric] = Field(
        description="The latest value of each metric.", examples=[{"heldout/clip_score": {"step": 10, "value": 0.71}}]
    )
