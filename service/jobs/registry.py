"""The registry of all job kinds, used by the quota, health, metrics and doctor code instead of their own lists."""

from service.db.models import Evaluation, Generation, Job, Run, Score

JOBS: dict[str, type[Job]] = {job.KIND: job for job in (Run, Generation, Evaluation, Score)}


def queues() -> list[str]:
    """Return the message queues of all job kinds, without duplicates."""
    return list(dict.fromkeys(job.QUEUE for job in JOBS.values()))
