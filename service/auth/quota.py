"""The limit on the number of open jobs per API key."""

import uuid

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from service.auth.errors import TooManyOpenJobs
from service.contracts.status import INACTIVE
from service.core.settings import Settings
from service.db.models import ApiKey
from service.jobs.registry import JOBS


def check_open_jobs(session: Session, settings: Settings, key_id: uuid.UUID | None) -> None:
    """Raise TooManyOpenJobs if the API key has reached its limit. There is no limit if `key_id` is None.

    Call this in the transaction that adds or requeues the job. The row of the key stays locked until the transaction
    ends, so that concurrent requests count the job. Paused and ended jobs are not counted.
    """
    if key_id is None:
        return
    # Without populate_existing, the session would return the values from when it first read the row.
    key = session.get_one(ApiKey, key_id, with_for_update={"key_share": True}, populate_existing=True)
    open_jobs = sum(
        session.scalar(select(func.count()).where(job.created_by == key_id, job.status.not_in(INACTIVE))) or 0
        for job in JOBS.values()
    )
    limit = settings.max_open_jobs if key.max_open_jobs is None else key.max_open_jobs
    if open_jobs >= limit:
        raise TooManyOpenJobs(
            f"The API key {key.prefix} ({key.name}) has {open_jobs} open jobs; the limit is {limit}. Wait until jobs "
            "end, or pause or cancel some",
            headers={"Retry-After": "60"},
        )
