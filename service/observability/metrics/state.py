"""The state of the whole service as metrics, read from the database when Prometheus asks, and no oftener."""

import time
from collections.abc import Iterable, Iterator
from typing import Any

import structlog
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector
from sqlalchemy import ColumnElement, CompoundSelect, Connection, Float, func, literal, select, text, union_all
from sqlalchemy.exc import SQLAlchemyError

from service.contracts.status import CLAIMABLE, HELD, JobStatus
from service.db.models import Attempt, Checkpoint, Worker
from service.db.session import Database
from service.jobs.registry import JOBS, queues
from service.observability.metrics import workers

log = structlog.get_logger()

_TIMEOUT_MILLISECONDS = 2000


class ServiceState(Collector):
    """Reads jobs, attempts, checkpoints and workers in one short transaction a scrape.

    Every API process tells the same. Where the database cannot be read only `g2rpo_database_up` is told, as 0.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    def collect(self) -> Iterable[Metric]:
        began = time.perf_counter()
        try:
            with self._database.engine.connect() as connection:
                timeout = f"SET LOCAL statement_timeout = {_TIMEOUT_MILLISECONDS}"
                connection.execute(text(f"SET TRANSACTION READ ONLY; {timeout}"))
                found = [*_jobs(connection), *_stored(connection), *self._workers(connection)]
        except SQLAlchemyError as error:
            log.warning("metrics.database_unavailable", error=str(error).splitlines()[0])
            return [_up(0)]
        seconds = time.perf_counter() - began
        return [
            _up(1),
            _gauge("database_scrape_seconds", "Time this scrape took to read the database.", seconds),
            *found,
        ]

    def _workers(self, connection: Connection) -> Iterator[Metric]:
        rows = connection.execute(select(Worker.name, Worker.queue, Worker.stats, _age(Worker.heartbeat_at))).all()
        present = [row for row in rows if row.age < self._database.settings.worker_timeout_seconds]
        count = GaugeMetricFamily("g2rpo_workers", "Workers heard of lately, by queue.", labels=["queue"])
        for queue in queues():
            count.add_metric([queue], sum(row.queue == queue for row in present))
        yield count
        age = GaugeMetricFamily(
            "g2rpo_worker_heartbeat_age_seconds",
            "Time since a worker was heard of; it is told for a worker that vanished, too, for a day.",
            labels=["worker", "queue"],
        )
        for row in rows:
            age.add_metric([row.name, row.queue], row.age)
        yield age
        yield from workers.measured([workers.Told(row.name, row.queue, row.stats) for row in present])


def _age(moment: Any) -> ColumnElement[float]:
    """Seconds since `moment`, by the database's clock."""
    return func.extract("epoch", func.now() - moment).cast(Float).label("age")


def _jobs(connection: Connection) -> Iterator[Metric]:
    jobs = GaugeMetricFamily("g2rpo_jobs", "Jobs, by kind and status.", labels=["kind", "status"])
    depth = GaugeMetricFamily("g2rpo_queue_depth", "Jobs that wait for a worker.", labels=["kind"])
    oldest = GaugeMetricFamily(
        "g2rpo_queue_oldest_age_seconds", "How long the job that waits longest has waited; 0: none.", labels=["kind"]
    )
    stale = GaugeMetricFamily(
        "g2rpo_stale_leases", "Jobs whose lease has run out, and which no worker has taken back yet.", labels=["kind"]
    )
    rows = connection.execute(_by_status()).all()
    for job in JOBS.values():
        of_kind = {row.status: row for row in rows if row.kind == job.KIND}
        for status in JobStatus:
            jobs.add_metric([job.KIND, status.value], of_kind[status].number if status in of_kind else 0)
        waiting = [of_kind[status] for status in CLAIMABLE if status in of_kind]
        depth.add_metric([job.KIND], sum(row.number for row in waiting))
        oldest.add_metric([job.KIND], max((row.age for row in waiting), default=0.0))
        stale.add_metric([job.KIND], sum(row.expired for row in of_kind.values() if row.status in HELD))
    yield from (jobs, depth, oldest, stale)


def _by_status() -> CompoundSelect[Any]:
    """By kind and status: the number of jobs, the age in seconds of the oldest, and the number of expired leases."""
    return union_all(
        *(
            select(
                literal(job.KIND).label("kind"),
                job.status,
                func.count().label("number"),
                _age(func.min(job.queued_at)),
                func.count().filter(job.lease_expires_at < func.now()).label("expired"),
            ).group_by(job.status)
            for job in JOBS.values()
        )
    )


def _stored(connection: Connection) -> Iterator[Metric]:
    lost = select(func.count()).select_from(Attempt).where(Attempt.lost).scalar_subquery()
    stored = select(func.count(), func.coalesce(func.sum(Checkpoint.size), 0), lost)
    number, size, attempts = connection.execute(stored.where(Checkpoint.deleted_at.is_(None))).one()
    about = "Attempts at runs whose worker or process disappeared, of the runs still kept."
    yield _gauge("lost_attempts", about, attempts)
    yield _gauge("checkpoints", "Checkpoints in the artifact store.", number)
    yield _gauge("checkpoint_bytes", "Bytes of the checkpoints in the artifact store.", float(size))


def _up(value: int) -> Metric:
    return _gauge("database_up", "Whether the database could be read for this scrape.", value)


def _gauge(name: str, documentation: str, value: float) -> Metric:
    return GaugeMetricFamily(f"g2rpo_{name}", documentation, value=value)
