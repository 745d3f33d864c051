"""Read the events and progress of a job since a position, in short queries with bounded results."""

import uuid
from dataclasses import dataclass, field, replace
from typing import Any, cast

from sqlalchemy import select
from sqlalchemy.orm import Session, load_only

from service.api.events.schemas import EvaluationEnd, EvaluationProgress, RunEnd, RunEvent, RunProgress
from service.api.runs.schemas import LatestMetric
from service.api.runs.service import latest_metrics
from service.contracts.status import TERMINAL
from service.db.models import Evaluation, Run
from service.http.errors import NotFound
from service.jobs import views

PAGE = 100
"""The maximum number of events in one update."""


@dataclass(frozen=True)
class Position:
    """The position of a stream: the data that it has already sent."""

    after: int
    """The id of the last event sent."""
    state: tuple[Any, ...] | None = None
    """The state in the last `progress` event, excluding metrics."""
    metrics: dict[str, LatestMetric] = field(default_factory=dict)
    """The last value sent for each metric."""


@dataclass(frozen=True)
class Update:
    """What a stream sends next: events, progress and end, in this order. `position` is the position afterwards."""

    position: Position
    events: list[RunEvent]
    more: bool = False
    """Whether more events are already available."""
    progress: RunProgress | EvaluationProgress | None = None
    held_back: bool = False
    """Whether the progress has changed but is not yet due to be sent."""
    end: RunEnd | EvaluationEnd | None = None


def read_update(
    session: Session, job: type[Run] | type[Evaluation], id: uuid.UUID, position: Position, quiet: bool
) -> Update:
    """Return the changes since `position`. Raises NotFound.

    If `quiet` is true, progress is held back unless the status has changed.
    """
    names = ("status", "attempt", "progress", "last_event", "priority", "created_at")
    columns = [getattr(job, name) for name in names]
    found = session.scalar(select(job).options(load_only(*columns)).where(job.id == id))
    row = cast("Run | Evaluation | None", found)
    if row is None:
        raise NotFound(f"{job.KIND.capitalize()} {id} not found")
    # The row is read before the events, so all events up to its `last_event` exist and lead to its status.
    own = select(job.EVENTS).where(job.EVENTS.job_id == id)
    due = own.where(job.EVENTS.id > position.after, job.EVENTS.id <= row.last_event)
    events = [RunEvent.model_validate(event) for event in session.scalars(due.order_by(job.EVENTS.id).limit(PAGE))]
    if events:
        position = replace(position, after=events[-1].id)
    if len(events) == PAGE and position.after < row.last_event:
        return Update(position, events, more=True)
    queue_position = views.queue_position(session, row)
    state = (row.status, row.attempt, row.progress, queue_position)
    changed = state != position.state
    if changed and quiet and position.state is not None and position.state[0] is row.status:
        return Update(position, events, held_back=True)
    progress: RunProgress | EvaluationProgress | None = None
    if changed:
        common = {f"{job.KIND}_id": id, "queue_position": queue_position, "eta_seconds": views.eta_seconds(row)}
        metrics = {}
        if isinstance(row, Run):
            latest = latest_metrics(session, id).items()
            metrics = {name: metric for name, metric in latest if position.metrics.get(name) != metric}
            progress = views.from_row(RunProgress, row, metrics=metrics, **common)
        else:
            progress = views.from_row(EvaluationProgress, row, **common)
        position = replace(position, state=state, metrics={**position.metrics, **metrics})
    end: RunEnd | EvaluationEnd | None = None
    if row.status in TERMINAL:
        view = RunEnd if isinstance(row, Run) else EvaluationEnd
        end = view.model_validate({f"{job.KIND}_id": id, "status": row.status, "last_event": row.last_event})
    return Update(position, events, progress=progress, end=end)
