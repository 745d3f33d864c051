"""The kinds of jobs. Queue, quota, health, metrics and doctor read this registry and list no kinds themselves."""

from service.db.models import Evaluation, Generation, Job, Run, Score

JOBS: dict[str, type[Job]] = {job.KIND: job for job in (Run, Generation, Evaluation, Score)}


def queues() -> list[str]:
    """The message queues of all kinds, each once."""
    return list(dict.fromkeys(job.QUEUE for job in JOBS.values()))
