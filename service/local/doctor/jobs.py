"""How jobs fare: who works, what waits, what was left behind, and whether clocks agree."""

from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import func, select, text

from service.contracts.status import CLAIMABLE, HELD
from service.db.models import Worker
from service.db.session import Database
from service.jobs.queue import Queue
from service.jobs.registry import JOBS
from service.observability.health import checks
from service.observability.health.checks import in_words
from service.observability.health.findings import Doubtful

_SKEW_SECONDS = 5.0
_LONG_SECONDS = 3600.0


def workers(database: Database) -> str:
    """Each queue has a worker, and each worker has room for the files of its jobs."""
    found = checks.workers(database)
    lately = func.now() - timedelta(seconds=database.settings.worker_timeout_seconds)
    with database.transaction() as session:
        rows = session.execute(select(Worker.name, Worker.stats).where(Worker.heartbeat_at > lately)).all()
    for name, stats in rows:
        free = stats.get("data_free_bytes")
        if isinstance(free, int | float) and free < database.settings.min_free_bytes:
            hint = "make room in its G2RPO_DATA_DIR: a run that cannot write a checkpoint fails"
            raise Doubtful(f"{found}; disk nearly full: worker {name} has {in_words(int(free))} left", hint)
    return found


def queues(database: Database) -> str:
    """Jobs that wait, and for how long."""
    parts, longest = [], 0.0
    with database.transaction() as session:
        for job in JOBS.values():
            age: Any = func.extract("epoch", func.now() - func.min(job.queued_at))
            waiting, oldest = session.execute(select(func.count(), age).where(job.status.in_(CLAIMABLE))).one()
            longest = max(longest, float(oldest or 0))
            parts.append(f"{waiting} {job.KIND}s wait" + (f", the oldest for {float(oldest):.0f} s" if oldest else ""))
    found = "; ".join(parts)
    if longest > _LONG_SECONDS:
        raise Doubtful(found, "start more workers, or see why those there are do not take them (their log)")
    return found


def leases(database: Database) -> str:
    """No job is held by a worker that is gone."""
    # A living worker puts such jobs back at its next look.
    long_ago = func.now() - timedelta(seconds=2 * database.settings.reconcile_seconds)
    with database.transaction() as session:
        held = [
            f"{job.KIND} {id} (by {owner})"
            for job in JOBS.values()
            for id, owner in session.execute(
                select(job.id, job.lease_owner).where(job.status.in_(HELD), job.lease_expires_at < long_ago)
            )
        ]
    if held:
        detail = f"held by workers that are gone: {', '.join(held[:5])}" + (" and more" if len(held) > 5 else "")
        raise Doubtful(detail, "start a worker: it puts them back into the queue")
    return "none is left over"


def clock(database: Database) -> str:
    """This machine's clock and the database's agree. Leases do not depend on it; what people read does."""
    with database.transaction() as session:
        session.execute(text("SELECT 1"))  # the connection is there: what follows is one way and back
        before = datetime.now(UTC)
        theirs: datetime = session.execute(select(func.clock_timestamp())).scalar_one()
        after = datetime.now(UTC)
    skew = (theirs - before - (after - before) / 2).total_seconds()
    if abs(skew) > _SKEW_SECONDS:
        hint = "set both by NTP: times in logs and answers contradict each other, and S3 refuses such requests"
        raise Doubtful(f"the database's clock is {abs(skew):.0f} s {'ahead' if skew > 0 else 'behind'}", hint)
    return f"{abs(skew):.1f} s from the database's"


def broker(queue: Queue, reconcile_seconds: float) -> str:
    """The broker answers, and what a restart of it costs."""
    checks.broker(queue)
    said = queue.server()
    name = "Valkey" if "valkey_version" in said else "Redis"
    release = said.get("valkey_version") or said.get("redis_version", "")
    kept = (
        "keeps messages on disk"
        if said.get("aof_enabled")
        else f"forgets messages when it is killed: jobs then wait up to {reconcile_seconds:g} s"
    )
    return f"{name} {release} {kept}"
