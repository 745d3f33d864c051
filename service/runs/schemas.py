"""How runs are asked for and shown."""

from typing import Annotated, Any
from uuid import UUID

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, StringConstraints

from service import examples
from service.contracts.events import HeldoutSummary
from service.contracts.status import JobStatus
from service.jobs import JobView
from service.pages import Cursor, Limit

LabelFilter = Annotated[str, StringConstraints(pattern=r"^[^\x00:]{1,100}:[^\x00]{1,100}$")]
Text = Annotated[str, StringConstraints(max_length=100, pattern=r"^[^\x00]*$")]


class RunFilters(BaseModel):
    """Which runs to list; several statuses are alternatives, everything else must hold together."""

    model_config = ConfigDict(extra="forbid")

    status: list[JobStatus] = Field([], max_length=len(JobStatus), description="One of these states.")
    algorithm: Text | None = Field(None, description="The algorithm's name.")
    model: Text | None = Field(None, description="The model's name.")
    label: list[LabelFilter] = Field([], max_length=32, description="`key:value`, a label the run must have.")
    created_after: AwareDatetime | None = Field(None, description="Created at or after this time.")
    created_before: AwareDatetime | None = Field(None, description="Created before this time.")
    limit: Limit = 50
    cursor: Cursor = None


class RunSummary(JobView):
    """A run in a list."""

    model_config = ConfigDict(json_schema_extra=examples.example(examples.RUN_SUMMARY))

    name: str
    labels: dict[str, str]
    model: str
    algorithm: str
    start_from: UUID | None = Field(description="The checkpoint it started from.")
    heldout: dict[str, HeldoutSummary] | None = Field(description="Held-out rewards before and after, once it is done.")


class LatestMetric(BaseModel):
    """The newest value of a metric."""

    step: int = Field(description="Optimizer steps done.")
    value: float | None = Field(description="Null where it was not finite.")


class RunView(RunSummary):
    """A run in full."""

    model_config = ConfigDict(json_schema_extra=examples.example(examples.RUN))

    spec: dict[str, Any] = Field(description="The resolved spec, as it was accepted: see the body of `POST /runs`.")
    spec_version: int
    queue_position: int | None = Field(description="1 is taken next; null when it does not wait.")
    eta_seconds: float | None = Field(description="Estimated seconds to the end; null until a step has been timed.")
    resources: dict[str, Any] = Field(description="What it is given: see `resources` of the spec.")
    plan: dict[str, Any] = Field(description="Its cost as planned when it was accepted: see `POST /plans`.")
    metrics: dict[str, LatestMetric] = Field(description="The newest value of every metric.")
