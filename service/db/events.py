"""Record the events of a job, and notify listeners of its status changes."""

import uuid
from typing import Any

from sqlalchemy import func, select, update
from sqlalchemy.orm import Session

from service.db.models import SupervisedJob

CHANNEL = "g2rpo_jobs"
"""The NOTIFY channel. Payloads have the form `<kind>:<id>`."""


def record(
    session: Session,
    job: type[SupervisedJob],
    id: uuid.UUID,
    attempt: int,
    type: str,
    data: dict[str, Any] | None = None,
) -> int:
    """Append an event to a job and return its number. The job's row lock keeps the numbers consecutive.

    Raises LookupError if the job does not exist.
    """
    number: int | None = session.scalar(
        update(job)
        .where(job.id == id)
        .values(last_event=job.last_event + 1)
        .returning(job.last_event)
        .execution_options(synchronize_session=False)
    )
    if number is None:
        raise LookupError(f"{job.KIND} {id} not found")
    session.add(job.EVENTS(job_id=id, id=number, attempt=attempt, type=type, data=data or {}))
    return number


def notify_job(session: Session, kind: str, id: uuid.UUID) -> None:
    """Notify a job's listeners when the transaction commits. Must be called for every status change."""
    session.execute(select(func.pg_notify(CHANNEL, f"{kind}:{id}")))
