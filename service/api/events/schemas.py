"""The events of a run's stream, and how the stream is asked for."""

import uuid
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, GetJsonSchemaHandler
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema

from service.api.runs.schemas import LatestMetric
from service.contracts.events import Progress
from service.contracts.status import JobStatus
from service.http.errors import Problem

LAST_ID = 2**63 - 1
"""The greatest id that an event can have."""


class EventQuery(BaseModel):
    """From which event on, and how often the progress is told."""

    model_config = ConfigDict(extra="forbid")

    after: int = Field(0, ge=0, le=LAST_ID, description="After the event of this id; `Last-Event-ID` wins over it.")
    every: float = Field(
        1.0, ge=0.1, le=60, allow_inf_nan=False, description="Least seconds between two `progress` events."
    )


class RunEvent(BaseModel):
    """Something that happened to a run or an evaluation, such as a change of state. Its `type` is the event's name."""

    model_config = ConfigDict(from_attributes=True)

    id: int = Field(description="Counts up by one within a job; `Last-Event-ID` resumes after it.")
    time: datetime
    attempt: int
    type: str = Field(description="Such as `status`, `started`, `checkpoint`.", examples=["status"])
    data: dict[str, Any] = Field(
        description="What there is to say, by type; `status` has the new status.", examples=[{"status": "running"}]
    )


class RunProgress(BaseModel):
    """Where a run stands: `event: progress`, without an id. The first of a stream has every metric."""

    run_id: uuid.UUID
    status: JobStatus
    attempt: int
    progress: Progress | None = Field(description="What the child process last reported.")
    eta_seconds: float | None = Field(description="Estimated seconds to the end; null until a step has been timed.")
    queue_position: int | None = Field(description="1 is taken next; null when it does not wait.")
    metrics: dict[str, LatestMetric] = Field(description="The newest value of each metric that has a new one.")


class EvaluationProgress(BaseModel):
    """Where an evaluation stands: `event: progress`, without an id."""

    evaluation_id: uuid.UUID
    status: JobStatus
    attempt: int
    progress: Progress | None = Field(description="What the child process last reported; its steps are images.")
    eta_seconds: float | None = Field(description="Estimated seconds to the end; null until images were timed.")
    queue_position: int | None = Field(description="1 is taken next; null when it does not wait.")


class EvaluationEnd(BaseModel):
    """The evaluation has ended and everything was sent: `event: end`, without an id. The connection closes."""

    evaluation_id: uuid.UUID
    status: Literal[JobStatus.SUCCEEDED, JobStatus.FAILED, JobStatus.CANCELLED]
    last_event: int = Field(description="The id of the newest event.")


class RunEnd(BaseModel):
    """The run has ended and everything was sent: `event: end`, without an id. The connection closes."""

    run_id: uuid.UUID
    status: Literal[JobStatus.SUCCEEDED, JobStatus.FAILED, JobStatus.CANCELLED]
    last_event: int = Field(description="The id of the newest event.")


@dataclass(frozen=True)
class _AsText:
    """Shows a type in OpenAPI as the JSON text that it is sent as."""

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        return {"type": "string", "contentMediaType": "application/json", "contentSchema": handler(schema)}


class StreamedEvent(BaseModel):
    """One event of the stream, by its lines."""

    event: str = Field(description="`progress`, `end`, `error`, or the `type` of one of the run's own events.")
    id: str | None = Field(None, description="Of the run's own events: what `Last-Event-ID` resumes after.")
    data: Annotated[RunEvent | RunProgress | RunEnd | Problem, _AsText()]


class EvaluationStreamedEvent(BaseModel):
    """One event of the stream, by its lines."""

    event: str = Field(description="`progress`, `end`, `error`, or the `type` of one of the evaluation's own events.")
    id: str | None = Field(None, description="Of the evaluation's own events: what `Last-Event-ID` resumes after.")
    data: Annotated[RunEvent | EvaluationProgress | EvaluationEnd | Problem, _AsText()]
