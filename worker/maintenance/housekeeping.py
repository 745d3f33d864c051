"""What every worker does beside its work: say that it is there, give up for the dead, and wake for the forgotten.

Of models that the process keeps loaded, it lets go of those that nobody has asked for in a while.
"""

import threading
import time
from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import cast

import structlog
from celery import Celery
from sqlalchemy import delete, exists, func, select, text
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session, defer

from service.contracts.status import CLAIMABLE, HELD, JobStatus
from service.db.models import Evaluation, Generation, Run, Score, Worker
from service.db.session import Database
from worker.engine.inference.model_cache import WARM, Warm, card_is_shared
from worker.jobs.claim import JobRow, JobType, give_up
from worker.jobs.registry import WORKS
from worker.maintenance import garbage_collection
from worker.maintenance.recovery import salvage
from worker.monitoring import devices
from worker.monitoring.stats import STATS, gather

log = structlog.get_logger()

_LOCK = 0x67327270_6F01
"""Key of the advisory lock under which one worker at a time looks after all jobs."""
_BROKER_SECONDS = 5.0
_IN_A_ROW_SECONDS = 2.0
"""Requests follow each other in a row if their pauses are shorter than this."""
_JOBS: tuple[JobType, ...] = (Run, Generation, Evaluation, Score)


class Housekeeping:
    """Three threads, from the worker's start to its end.

    One keeps the time, one tidies up and may take long, one frees the device's memory and may hang with its driver.
    """

    def __init__(self, database: Database, app: Celery, name: str, queue: str) -> None:
        self._database, self._app, self._name, self._queue = database, app, name, queue
        self._ended = threading.Event()
        self._threads = [
            threading.Thread(target=work, name=f"housekeeping-{work.__name__.strip('_')}", daemon=True)
            for work in (self._beat, self._tidy, self._make_room)
        ]

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """End the threads and take the worker off the list."""
        self._ended.set()
        self._threads[0].join(self._database.settings.connect_seconds)
        try:
            with self._database.transaction() as session:
                session.execute(delete(Worker).where(Worker.name == self._name))
        except SQLAlchemyError as error:
            log.warning("worker.not_removed", error=str(error).splitlines()[0])

    def _beat(self) -> None:
        while True:
            _attempt("heartbeat", lambda: heartbeat(self._database, self._name, self._queue))
            _attempt("reconcile", lambda: reconcile(self._database, self._app))
            if self._ended.wait(self._database.settings.reconcile_seconds):
                return

    def _tidy(self) -> None:
        settings = self._database.settings
        search_at = time.monotonic() + settings.collect_seconds
        _attempt("check_ours", lambda: garbage_collection.check_ours(self._database))
        while not self._ended.wait(settings.reconcile_seconds):
            _attempt("collect", lambda: garbage_collection.collect_garbage(self._database))
            if (work := WORKS.get(self._queue)) is not None:
                _attempt("salvage", lambda work=work: salvage(self._database, work))  # type: ignore[misc]
            if time.monotonic() < search_at:
                continue
            search_at = time.monotonic() + settings.collect_seconds
            for look in (
                garbage_collection.find_orphans,
                garbage_collection.find_leftovers,
                garbage_collection.forget_requests,
                garbage_collection.clear_local_files,
            ):
                _attempt(look.__name__, lambda look=look: look(self._database))  # type: ignore[misc]

    def _make_room(self) -> None:
        while not self._ended.wait(self._database.settings.reconcile_seconds):
            _attempt("make_room", lambda: make_room(self._database, WARM, card_is_shared()))


def _attempt(what: str, work: Callable[[], object]) -> None:
    """Do a piece of work that is done again soon: a failure is a line in the log."""
    try:
        work()
    except Exception as error:
        # Whatever database, broker or store raise: this thread must go on, or the worker counts as gone.
        log.warning("housekeeping.failed", work=what, error=(str(error) or repr(error)).splitlines()[0])


def heartbeat(database: Database, name: str, queue: str) -> None:
    """Write that the worker is there, and forget those long gone."""
    row = {"name": name, "queue": queue, "device": devices.in_words(), "stats": gather(database.settings.data_dir)}
    with database.transaction() as session:
        beat = (
            insert(Worker)
            .values(**row)
            .on_conflict_do_update(index_elements=["name"], set_={"heartbeat_at": func.now(), "stats": row["stats"]})
        )
        session.execute(beat)
        session.execute(delete(Worker).where(Worker.heartbeat_at < func.now() - timedelta(days=1)))


def reconcile(database: Database, app: Celery) -> None:
    """Give up jobs whose lease has run out, and wake a queue that has claimable jobs and no message.

    One worker at a time does it; the others find the lock taken and leave it at that.
    """
    waiting: dict[str, None] = {}
    with database.transaction() as session:
        if not session.scalar(select(func.pg_try_advisory_xact_lock(text(str(_LOCK))))):
            return
        for job in _JOBS:
            _give_up_expired(session, job)
            if session.scalar(select(exists().where(job.status.in_(CLAIMABLE)))):
                waiting[job.QUEUE] = None
    for queue in waiting:
        _wake(app, queue)


def make_room(database: Database, warm: Warm, shared: bool | None, in_a_row_seconds: float = _IN_A_ROW_SECONDS) -> None:
    """Let go of what is loaded if no request came for `warm_seconds`; where a run wants the card, when no more follow.

    shared: whether other processes have memory of the card; None: there is no card. A run that starts, wherever, may be
    about to take this one; one that runs has its card, which is this one only if it is shared.
    """
    reason, names = "idle", warm.let_go(database.settings.warm_seconds)
    if not names and shared is not None:
        wanting = HELD if shared else {JobStatus.STARTING}
        with database.transaction() as session:
            wanted = session.scalar(select(exists().where(Run.status.in_(wanting))))
        reason, names = "run", warm.let_go(in_a_row_seconds) if wanted else []
    if names:
        log.info("warm.let_go", entries=names, reason=reason)


def _give_up_expired(session: Session, job: JobType) -> None:
    """Whoever takes the job next first reads what the lost worker left unread, and then decides how often is enough."""
    expired = select(job).where(job.status.in_(HELD), job.lease_expires_at < func.now())
    light = expired.options(defer(job.spec), defer(job.requested)).with_for_update(skip_locked=True)
    for row in cast("Sequence[JobRow]", session.scalars(light).all()):
        owner = row.lease_owner
        status = give_up(session, row)
        STATS.add("leases_expired")
        log.warning("job.expired", kind=row.KIND, job=str(row.id), attempt=row.attempt, owner=owner, status=status)


def _wake(app: Celery, queue: str) -> None:
    # A message is enough for a queue: the worker that gets it goes on until nothing is claimable. More would only
    # pile up while every worker is busy.
    # A broker that hangs must not keep this thread from its other work.
    limits = dict.fromkeys(("socket_timeout", "socket_connect_timeout", "connect_retries_timeout"), _BROKER_SECONDS)
    with app.connection(app.conf.broker_write_url, transport_options=limits) as connection:
        if connection.default_channel.queue_declare(queue).message_count == 0:
            app.send_task("jobs.wake", args=[queue], queue=queue, connection=connection, retry=False)
