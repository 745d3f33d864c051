"""Query parameters and events of event streams."""

import uuid
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field, GetJsonSchemaHandler
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema

from service.api.runs.schemas import LatestMetric
from service.contracts.events import Progress
from service.contracts.status import JobStatus
from service.http.errors import Problem
from service.http.pagination import RowView, StrictQuery

LAST_ID = 2**63 - 1
"""The maximum id of an event."""


class EventQuery(StrictQuery):
    """The position at which a stream starts, and its progress interval."""

    after: int = Field(
        0, ge=0, le=LAST_ID, description="Id of the last event received; `Last-Event-ID` takes precedence."
    )
    every: float = Field(
        1.0, ge=0.1, le=60, allow_inf_nan=False, description="Minimum seconds between two `progress` events."
    )


class RunEvent(RowView):
    """An event of a job, such as a status change. Its `type` is the name of the server-sent event."""

    id: int = Field(description="Consecutive within a job; `Last-Event-ID` resumes after it.")
    time: datetime
    attempt: int
    type: str = Field(description="The type, such as `status`, `started` or `checkpoint`.", examples=["status"])
    data: dict[str, Any] = Field(
        description="Depends on `type`; for `status`, the new status.", examples=[{"status": "running"}]
    )


class _Progress(BaseModel):
    status: JobStatus
    attempt: int
    progress: Progress | None = Field(description="Last reported progress; the steps of an evaluation are images.")
    eta_seconds: float | None = Field(description="Estimated remaining seconds; null until a step has been timed.")
    queue_position: int | None = Field(description="Position in the queue; 1 is claimed next. Null if not waiting.")


class RunProgress(_Progress):
    """The state of a run, sent as `event: progress` without an id. The first one in a stream has all metrics."""

    run_id: uuid.UUID
    metrics: dict[str, LatestMetric] = Field(description="The latest value of each metric that has changed.")


class EvaluationProgress(_Progress):
    """The state of an evaluation, sent as `event: progress` without an id."""

    evaluation_id: uuid.UUID


class _End(BaseModel):
    status: Literal[JobStatus.SUCCEEDED, JobStatus.FAILED, JobStatus.CANCELLED]
    last_event: int = Field(description="The id of the last event.")


class RunEnd(_End):
    """Sent as `event: end`, without an id, once a run has ended and all events were sent.

    The connection then closes.
    """

    run_id: uuid.UUID


class EvaluationEnd(_End):
    """Sent as `event: end`, without an id, once an evaluation has ended and all events were sent.

    The connection then closes.
    """

    evaluation_id: uuid.UUID


@dataclass(frozen=True)
class _AsText:
    """Annotation that documents a type in OpenAPI as JSON text."""

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        return {"type": "string", "contentMediaType": "application/json", "contentSchema": handler(schema)}


class StreamedEvent(BaseModel):
    """The fields of one server-sent event of a run, each on its own line."""

    event: str = Field(description="`progress`, `end`, `error`, or the `type` of a run event.")
    id: str | None = Field(None, description="The id of a run event, for `Last-Event-ID`.")
    data: Annotated[RunEvent | RunProgress | RunEnd | Problem, _AsText()]


class EvaluationStreamedEvent(BaseModel):
    """The fields of one server-sent event of an evaluation, each on its own line."""

    event: str = Field(description="`progress`, `end`, `error`, or the `type` of an evaluation event.")
    id: str | None = Field(None, description="The id of an evaluation event, for `Last-Event-ID`.")
    data: Annotated[RunEvent | EvaluationProgress | EvaluationEnd | Problem, _AsText()]
