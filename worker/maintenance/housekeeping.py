"""Background tasks of every worker: heartbeat, expired leases, missed jobs, garbage collection and idle models."""

import threading
import time
from collections.abc import Callable
from datetime import timedelta

import structlog
from celery import Celery
from sqlalchemy import delete, exists, func, select, text
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session, defer

from service.contracts.status import CLAIMABLE, HELD, JobStatus
from service.core.settings import WAKE_TASK
from service.db.models import Run, Worker
from service.db.session import Database
from worker.engine.inference.model_cache import MODEL_CACHE, ModelCache, device_is_shared
from worker.jobs.claim import JobType, end_lost_attempt
from worker.jobs.registry import JOB_TYPES, job_types
from worker.jobs.supervisor import SupervisedJobType
from worker.maintenance import garbage_collection
from worker.maintenance.recovery import recover_unread
from worker.monitoring import devices
from worker.monitoring.stats import STATS, gather

log = structlog.get_logger()

_LOCK = 0x67327270_6F01
"""Key of the advisory lock that allows only one worker at a time to reconcile all jobs."""
_BROKER_SECONDS = 5.0
_BURST_SECONDS = 2.0
"""Maximum pause between requests of one burst, during which models stay loaded."""


class Housekeeping:
    """Runs background tasks for the worker's lifetime.

    There are three threads: one for time-critical tasks, one for tasks that may take long, and one for tasks
    that may hang in a GPU driver.
    """

    def __init__(self, database: Database, app: Celery, name: str, queue: str) -> None:
        self._database, self._app, self._name, self._queue = database, app, name, queue
        self._ended = threading.Event()
        self._threads = [
            threading.Thread(target=work, name=f"housekeeping-{work.__name__.strip('_')}", daemon=True)
            for work in (self._beat, self._tidy, self._free_memory)
        ]

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """End the threads and delete the worker's row."""
        self._ended.set()
        self._threads[0].join(self._database.settings.connect_seconds)
        try:
            with self._database.transaction() as session:
                session.execute(delete(Worker).where(Worker.name == self._name))
        except SQLAlchemyError as error:
            log.warning("worker.not_removed", error=str(error).splitlines()[0])

    def _beat(self) -> None:
        while True:
            _try(heartbeat, self._database, self._name, self._queue)
            _try(reconcile, self._database, self._app)
            if self._ended.wait(self._database.settings.reconcile_seconds):
                return

    def _tidy(self) -> None:
        settings = self._database.settings
        search_at = time.monotonic() + settings.collect_seconds
        _try(garbage_collection.check_owner, self._database)
        while not self._ended.wait(settings.reconcile_seconds):
            _try(garbage_collection.collect_garbage, self._database)
            for job_type in job_types(self._queue):
                if isinstance(job_type, SupervisedJobType):
                    _try(recover_unread, self._database, job_type)
            if time.monotonic() < search_at:
                continue
            search_at = time.monotonic() + settings.collect_seconds
            for search in (
                garbage_collection.find_orphans,
                garbage_collection.find_leftovers,
                garbage_collection.delete_idempotency_keys,
                garbage_collection.clear_local_files,
            ):
                _try(search, self._database)

    def _free_memory(self) -> None:
        while not self._ended.wait(self._database.settings.reconcile_seconds):
            _try(self._release_models)

    def _release_models(self) -> None:
        release_models(self._database, MODEL_CACHE, device_is_shared())


def _try(work: Callable[..., object], *args: object) -> None:
    """Call `work` and only log a failure, because the call is repeated soon."""
    try:
        work(*args)
    except Exception as error:
        # Database, broker and store raise many exception types. If this thread ended, the worker would count as lost.
        log.warning("housekeeping.failed", work=work.__name__, error=(str(error) or repr(error)).splitlines()[0])


def heartbeat(database: Database, name: str, queue: str) -> None:
    """Write the worker's heartbeat, and delete the rows of workers with no heartbeat for a day."""
    row = {"name": name, "queue": queue, "device": devices.describe(), "stats": gather(database.settings.data_dir)}
    changes = {"heartbeat_at": func.now(), "stats": row["stats"]}
    with database.transaction() as session:
        session.execute(insert(Worker).values(**row).on_conflict_do_update(index_elements=["name"], set_=changes))
        session.execute(delete(Worker).where(Worker.heartbeat_at < func.now() - timedelta(days=1)))


def reconcile(database: Database, app: Celery) -> None:
    """Recover jobs with expired leases, and wake queues that have claimable jobs but no message.

    Does nothing if another worker is already reconciling.
    """
    queues = set()
    with database.transaction() as session:
        if not session.scalar(select(func.pg_try_advisory_xact_lock(text(str(_LOCK))))):
            return
        for job_type in JOB_TYPES.values():
            _end_expired(session, job_type)
            if session.scalar(select(exists().where(job_type.model.status.in_(CLAIMABLE)))):
                queues.add(job_type.model.QUEUE)
    for queue in sorted(queues):
        _wake(app, queue)


def release_models(
    database: Database, models: ModelCache, shared: bool | None, burst_seconds: float = _BURST_SECONDS
) -> None:
    """Unload the models of an idle worker, or after the current burst of requests if a run needs the GPU.

    shared: whether other processes use memory of the GPU, or None if there is no GPU. A starting run on any worker may
    be about to use this GPU. A run that is already running uses this GPU only if it is shared.
    """
    reason, names = "idle", models.release(database.settings.model_cache_seconds)
    if not names and shared is not None:
        statuses = HELD if shared else {JobStatus.STARTING}
        with database.transaction() as session:
            needed = session.scalar(select(exists().where(Run.status.in_(statuses))))
        reason, names = "run", models.release(burst_seconds) if needed else []
    if names:
        log.info("models.released", entries=names, reason=reason)


def _end_expired(session: Session, job_type: JobType) -> None:
    """End attempts with expired leases. The next attempt ingests unread events and then checks the number of losses."""
    job = job_type.model
    expired = select(job).where(job.status.in_(HELD), job.lease_expires_at < func.now())
    unused = (defer(job.spec), defer(job.requested))
    for row in session.scalars(expired.options(*unused).with_for_update(skip_locked=True)).all():
        owner = row.lease_owner
        status = end_lost_attempt(session, job_type, row)
        STATS.add("leases_expired")
        log.warning("job.expired", kind=row.KIND, job=str(row.id), attempt=row.attempt, owner=owner, status=status)


def _wake(app: Celery, queue: str) -> None:
    # One message per queue is enough, because a worker runs jobs until none is claimable. More messages would pile up
    # while all workers are busy. The timeouts prevent a hanging broker from blocking this thread.
    limits = dict.fromkeys(("socket_timeout", "socket_connect_timeout", "connect_retries_timeout"), _BROKER_SECONDS)
    with app.connection(app.conf.broker_write_url, transport_options=limits) as connection:
        if connection.default_channel.queue_declare(queue).message_count == 0:
            app.send_task(WAKE_TASK, args=[queue], queue=queue, connection=connection, retry=False)
