"""The Celery application. The broker only wakes workers: work, state and results are in the database."""

from celery import Celery

from service.core.settings import Settings

WAKE = "jobs.wake"
"""The only task: run the jobs of a queue. Arguments: the queue, and the id of a new job for the log."""


def make_app(settings: Settings) -> Celery:
    """An application on the broker of `settings`."""
    made = Celery("g2rpo", broker=settings.broker_url, include=["worker.tasks"])
    made.conf.update(
        task_create_missing_queues=True,
        task_serializer="json",
        accept_content=["json"],
        task_ignore_result=True,
        task_store_errors_even_if_ignored=False,
        # Acknowledged before the work: messages carry no work, so redelivery has no use.
        task_acks_late=False,
        worker_prefetch_multiplier=1,
        worker_disable_prefetch=True,
        # Threads, so that the running task sees worker_shutting_down; one, because a job uses the whole machine.
        worker_pool="threads",
        worker_concurrency=1,
        worker_send_task_events=False,
        worker_enable_remote_control=False,
        worker_hijack_root_logger=True,
        worker_redirect_stdouts=False,
        broker_connection_retry_on_startup=True,
        broker_connection_max_retries=None,
        broker_connection_timeout=5,
        worker_cancel_long_running_tasks_on_connection_loss=False,
        enable_utc=True,
    )
    return made


app = make_app(Settings())
