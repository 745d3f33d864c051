"""Reading what a stream has to tell: short reads, of which none waits and none is large."""

import uuid
from dataclasses import dataclass, field, replace
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session, load_only

from service import jobs
from service.contracts.events import Progress
from service.contracts.status import TERMINAL, JobStatus
from service.db import series
from service.db.models import Run
from service.db.models import RunEvent as Row
from service.errors import NotFound
from service.events.schemas import RunEnd, RunEvent, RunProgress
from service.runs.schemas import LatestMetric

PAGE = 100
"""Events that are read, and held in memory, at once."""
_COLUMNS = (Run.status, Run.attempt, Run.progress, Run.last_event, Run.priority, Run.created_at)


@dataclass(frozen=True)
class Place:
    """How far a stream has told its run's story."""

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
    progress: RunProgress | None = None
    held_back: bool = False
    """Whether the run's progress has changed but is not to be told yet."""
    end: RunEnd | None = None


def news(session: Session, run_id: uuid.UUID, place: Place, quiet: bool) -> News:
    """What has happened since `place`. `quiet` holds back mere progress. Raises NotFound."""
    run = session.scalar(select(Run).options(load_only(*_COLUMNS)).where(Run.id == run_id))
    if run is None:
        raise NotFound(f"there is no run {run_id}")
    # The row is read first: all events up to its `last_event` are there, and lead to the status it has.
    rows = session.scalars(
        select(Row)
        .where(Row.run_id == run_id, Row.id > place.after, Row.id <= run.last_event)
        .order_by(Row.id)
        .limit(PAGE)
    ).all()
    events = [RunEvent.model_validate(row) for row in rows]
    place = replace(place, after=events[-1].id if events else place.after)
    if len(rows) == PAGE and place.after < run.last_event:
        return News(place, events, more=True)
    position = jobs.queue_position(session, run)
    standing = (run.status, run.attempt, run.progress, position)
    changed = standing != place.standing
    if changed and quiet and place.standing is not None and place.standing[0] is run.status:
        return News(place, events, held_back=True)
    progress = None
    if changed:
        progress = _progress(session, run, position, place)
        place = replace(place, standing=standing, metrics={**place.metrics, **progress.metrics})
    end = None
    if run.status in TERMINAL:
        end = RunEnd.model_validate({"run_id": run_id, "status": run.status, "last_event": run.last_event})
    return News(place, events, progress=progress, end=end)


def _progress(session: Session, run: Run, position: int | None, place: Place) -> RunProgress:
    newest = {one.name: LatestMetric(step=one.last_step, value=one.value) for one in series.latest(session, run.id)}
    return RunProgress(
        run_id=run.id,
        status=run.status,
        attempt=run.attempt,
        progress=Progress.model_validate(run.progress) if run.progress else None,
        eta_seconds=(run.progress or {}).get("eta_seconds") if run.status is JobStatus.RUNNING else None,
        queue_position=position,
        metrics={name: metric for name, metric in newest.items() if place.metrics.get(name) != metric},
    )
