"""Query and events of event streams."""

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
"""The maximum id of an event."""


class EventQuery(BaseModel):
    """The first event, and the interval of progress."""

    model_config = ConfigDict(extra="forbid")

    after: int = Field(0, ge=0, le=LAST_ID, description="The id of the last received event; `Last-Event-ID` wins.")
    every: float = Field(
        1.0, ge=0.1, le=60, allow_inf_nan=False, description="Minimum seconds between two `progress` events."
    )


class RunEvent(BaseModel):
    """An event of a job, such as a change of status. Its `type` is the name of the server-sent event."""

    model_config = ConfigDict(from_attributes=True)

    id: int = Field(description="Consecutive within a job; `Last-Event-ID` resumes after it.")
    time: datetime
    attempt: int
    type: str = Field(description="Such as `status`, `started`, `checkpoint`.", examples=["status"])
    data: dict[str, Any] = Field(
        description="Depends on `type`; `status` has the new status.", examples=[{"status": "running"}]
    )


class _Progress(BaseModel):
    status: JobStatus
    attempt: int
    progress: Progress | None = Field(description="Last reported progress; the steps of an evaluation are images.")
    eta_seconds: float | None = Field(description="Estimated seconds to the end; null until a step has been timed.")
    queue_position: int | None = Field(description="1: claimed next; null for a job that is not waiting.")


class RunProgress(_Progress):
    """The state of a run: `event: progress`, without an id. The first one of a stream has all metrics."""

    run_id: uuid.UUID
    metrics: dict[str, LatestMetric] = Field(description="The latest value of each metric with a new value.")


class EvaluationProgress(_Progress):
    """The state of an evaluation: `event: progress`, without an id."""

    evaluation_id: uuid.UUID


class _End(BaseModel):
    status: Literal[JobStatus.SUCCEEDED, JobStatus.FAILED, JobStatus.CANCELLED]
    last_event: int = Field(description="The id of the last event.")


class RunEnd(_End):
    """The run has ended and all events were sent: `event: end`, without an id. The connection closes."""

    run_id: uuid.UUID


class EvaluationEnd(_End):
    """The evaluation has ended and all events were sent: `event: end`, without an id. The connection closes."""

    evaluation_id: uuid.UUID


@dataclass(frozen=True)
class _AsText:
    """Documents a type in OpenAPI as JSON text."""

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        return {"type": "string", "contentMediaType": "application/json", "contentSchema": handler(schema)}


class StreamedEvent(BaseModel):
    """One event of the stream, line by line."""

    event: str = Field(description="`progress`, `end`, `error`, or the `type` of a run event.")
    id: str | None = Field(None, description="The id of a run event, for `Last-Event-ID`.")
    data: Annotated[RunEvent | RunProgress | RunEnd | Problem, _AsText()]


class EvaluationStreamedEvent(BaseModel):
    """One event of the stream, line by line."""

    event: str = Field(description="`progress`, `end`, `error`, or the `type` of an evaluation event.")
    id: str | None = Field(None, description="The id of an evaluation event, for `Last-Event-ID`.")
    data: Annotated[RunEvent | EvaluationProgress | EvaluationEnd | Problem, _AsText()]
