"""Recording what happened to a run, and telling those who wait for a job."""

import uuid
from typing import Any, Literal

from sqlalchemy import func, select, update
from sqlalchemy.orm import Session

from service.db.models import Run, RunEvent

CHANNEL = "g2rpo_jobs"
"""The NOTIFY channel; a payload is `<kind>:<id>`."""


def record(session: Session, run_id: uuid.UUID, attempt: int, type: str, data: dict[str, Any] | None = None) -> int:
    """Append an event to a run and return its id; ids count up by one, under the run's row lock."""
    number = session.scalar(
        update(Run)
        .where(Run.id == run_id)
        .values(last_event=Run.last_event + 1)
        .returning(Run.last_event)
        .execution_options(synchronize_session=False)
    )
    if number is None:
        raise LookupError(f"there is no run {run_id}")
    session.add(RunEvent(run_id=run_id, id=number, attempt=attempt, type=type, data=data or {}))
    return number


def notify_job(session: Session, kind: Literal["run", "generation"], id: uuid.UUID) -> None:
    """Wake those who wait for the job, when the transaction commits. Call it whenever a job's status changes."""
    session.execute(select(func.pg_notify(CHANNEL, f"{kind}:{id}")))
