"""The Celery application. The broker only wakes workers: work, state and results are in the database."""

from celery import Celery

from service.core.settings import Settings

WAKE = "jobs.wake"
"""The only task: run the jobs of a queue. Arguments: the queue, and the id of a new job for the log."""


def make_app(settings: Settings) -> Celery:
    """An application on the broker of `settings`."""
    made = Celery("g2rpo", broker=settings.broker_url, include=["worker.tasks"])
    made.conf.update(
        task_ignore_result=True,
        worker_prefetch_multiplier=1,
        worker_disable_prefetch=True,
        # Threads, so that the running task sees worker_shutting_down; one, because a job uses the whole machine.
        worker_pool="threads",
        worker_concurrency=1,
        worker_enable_remote_control=False,
        worker_redirect_stdouts=False,
        broker_connection_retry_on_startup=True,
        broker_connection_max_retries=None,
        broker_connection_timeout=5,
    )
    return made


app = make_app(Settings())
