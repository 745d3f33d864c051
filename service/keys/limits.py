"""How many jobs a key may have that have not ended."""

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from service.contracts.status import RESTING
from service.db.models import ApiKey, Generation, Run
from service.keys.caller import Caller
from service.keys.refusals import TooManyOpenJobs
from service.settings import Settings


def check_open_jobs(session: Session, settings: Settings, caller: Caller) -> None:
    """Raise TooManyOpenJobs unless the caller may have one more. Call it in the transaction that adds the job.

    The key's row is locked until that ends: of two requests at once the second counts the first one's job. Paused and
    ended jobs do not count. Callers without a key have no limit.
    """
    if caller.id is None:
        return
    session.execute(select(ApiKey.id).where(ApiKey.id == caller.id).with_for_update(key_share=True))
    open_jobs = sum(
        session.scalar(select(func.count()).where(model.created_by == caller.id, model.status.not_in(RESTING))) or 0
        for model in (Run, Generation)
    )
    most = settings.max_open_jobs if caller.max_open_jobs is None else caller.max_open_jobs
    if open_jobs >= most:
        raise TooManyOpenJobs(
            f"the key {caller.prefix} ({caller.name}) has {open_jobs} jobs that have not ended; allowed are {most}. "
            "Wait for some to end, or pause or cancel some",
            headers={"Retry-After": "60"},
        )
