"""The Celery application. The broker only wakes workers; jobs, state and results are stored in the database."""

from celery import Celery

from service.core.settings import Settings


def make_app(settings: Settings) -> Celery:
    """Create a Celery application that uses the broker in `settings`."""
    made = Celery("g2rpo", broker=settings.broker_url, include=["worker.tasks"])
    made.conf.update(
        task_ignore_result=True,
        worker_prefetch_multiplier=1,
        worker_disable_prefetch=True,
        # A thread pool lets the running task see worker_shutting_down. One thread: a job uses the whole machine.
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
