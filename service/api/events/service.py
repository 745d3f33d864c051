"""Reading what a stream has to tell: short reads, of which none waits and none is large."""

import uuid
from dataclasses import dataclass, field, replace
from typing import Any, cast

from sqlalchemy import select
from sqlalchemy.orm import Session, load_only

from service.api.events.schemas import EvaluationEnd, EvaluationProgress, RunEnd, RunEvent, RunProgress
from service.api.runs.schemas import LatestMetric
from service.contracts.events import Progress
from service.contracts.status import TERMINAL, JobStatus
from service.db import metric_series
from service.db.models import Evaluation, Run
from service.http.errors import NotFound
from service.jobs import views

PAGE = 100
"""Events that are read, and held in memory, at once."""
_COLUMNS = ("status", "attempt", "progress", "last_event", "priority", "created_at")


@dataclass(frozen=True)
class Place:
    """How far a stream has told its job's story."""

    after: int
    """The id of the newest event that was told."""
    standing: tuple[Any, ...] | None = None
    """What the last `progress` said beside metrics."""
    metrics: dict[str, LatestMetric] = field(default_factory=dict)
    """What it has said of metrics."""


@dataclass(frozen=True)
class News:
    """What a stream has to tell, in this order, and its place when it has."""

    place: Place
    events: list[RunEvent]
    more: bool = False
    """Whether further events are there already."""
    progress: RunProgress | EvaluationProgress | None = None
    held_back: bool = False
    """Whether the job's progress has changed but is not to be told yet."""
    end: RunEnd | EvaluationEnd | None = None


def news(session: Session, job: type[Run] | type[Evaluation], id: uuid.UUID, place: Place, quiet: bool) -> News:
    """What has happened since `place`. `quiet` holds back mere progress. Raises NotFound."""
    columns = [getattr(job, name) for name in _COLUMNS]
    found = session.scalar(select(job).options(load_only(*columns)).where(job.id == id))
    row = cast("Run | Evaluation | None", found)
    if row is None:
        raise NotFound(f"there is no {job.KIND} {id}")
    # The row is read first: all events up to its `last_event` are there, and lead to the status it has.
    told = job.EVENTS
    rows = session.scalars(
        select(told)
        .where(told.job_id == id, told.id > place.after, told.id <= row.last_event)
        .order_by(told.id)
        .limit(PAGE)
    ).all()
    events = [RunEvent.model_validate(one) for one in rows]
    place = replace(place, after=events[-1].id if events else place.after)
    if len(rows) == PAGE and place.after < row.last_event:
        return News(place, events, more=True)
    position = views.queue_position(session, row)
    standing = (row.status, row.attempt, row.progress, position)
    changed = standing != place.standing
    if changed and quiet and place.standing is not None and place.standing[0] is row.status:
        return News(place, events, held_back=True)
    progress: RunProgress | EvaluationProgress | None = None
    if changed:
        place = replace(place, standing=standing)
        if isinstance(row, Run):
            progress = _progress(session, row, position, place)
            place = replace(place, metrics={**place.metrics, **progress.metrics})
        else:
            progress = EvaluationProgress(evaluation_id=id, **_standing(row, position))
    end: RunEnd | EvaluationEnd | None = None
    if row.status in TERMINAL:
        ended = {f"{job.KIND}_id": id, "status": row.status, "last_event": row.last_event}
        end = (RunEnd if isinstance(row, Run) else EvaluationEnd).model_validate(ended)
    return News(place, events, progress=progress, end=end)


def _progress(session: Session, run: Run, position: int | None, place: Place) -> RunProgress:
    newest = {
        one.name: LatestMetric(step=one.last_step, value=one.value) for one in metric_series.latest(session, run.id)
    }
    return RunProgress(
        run_id=run.id,
        metrics={name: metric for name, metric in newest.items() if place.metrics.get(name) != metric},
        **_standing(run, position),
    )


def _standing(row: Run | Evaluation, position: int | None) -> dict[str, Any]:
    return {
        "status": row.status,
        "attempt": row.attempt,
        "progress": Progress.model_validate(row.progress) if row.progress else None,
        "eta_seconds": (row.progress or {}).get("eta_seconds") if row.status is JobStatus.RUNNING else None,
        "queue_position": position,
    }
