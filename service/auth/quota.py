"""How many jobs a key may have that have not ended."""

import uuid

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from service.auth.errors import TooManyOpenJobs
from service.contracts.status import RESTING
from service.core.settings import Settings
from service.db.models import ApiKey
from service.jobs.registry import JOBS


def check_open_jobs(session: Session, settings: Settings, key_id: uuid.UUID | None) -> None:
    """Raise TooManyOpenJobs unless the key that a job belongs to may have one more; None, no key, has no limit.

    Call it in the transaction that adds the job, or queues it again. The key's row is locked until that ends: of two
    requests at once the second counts the first one's job. Paused and ended jobs do not count.
    """
    if key_id is None:
        return
    # Without refreshing it, a session that has seen the row would keep what it saw.
    key = session.get_one(ApiKey, key_id, with_for_update={"key_share": True}, populate_existing=True)
    open_jobs = sum(
        session.scalar(select(func.count()).where(job.created_by == key_id, job.status.not_in(RESTING))) or 0
        for job in JOBS.values()
    )
    most = settings.max_open_jobs if key.max_open_jobs is None else key.max_open_jobs
    if open_jobs >= most:
        raise TooManyOpenJobs(
            f"the key {key.prefix} ({key.name}) has {open_jobs} jobs that have not ended; allowed are {most}. "
            "Wait for some to end, or pause or cancel some",
            headers={"Retry-After": "60"},
        )
