"""Check the running service: workers, queues, leases, clocks and the broker."""

from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import func, select, text

from service.contracts.status import CLAIMABLE, HELD
from service.db.models import Worker
from service.db.session import Database
from service.jobs.queue import Queue
from service.jobs.registry import JOBS
from service.observability import checks
from service.observability.checks import Degraded, format_bytes

_MAX_SKEW_SECONDS = 5.0
_LONG_WAIT_SECONDS = 3600.0
_MAX_LISTED = 5


def workers(database: Database) -> str:
    """Check that each queue has a worker, and that each worker has enough free space for its jobs' files."""
    found = checks.workers(database)
    oldest = func.now() - timedelta(seconds=database.settings.worker_timeout_seconds)
    with database.transaction() as session:
        rows = session.execute(select(Worker.name, Worker.stats).where(Worker.heartbeat_at > oldest)).all()
    for name, stats in rows:
        free = stats.get("data_free_bytes")
        if isinstance(free, int | float) and free < database.settings.min_free_bytes:
            hint = "free some space in its G2RPO_DATA_DIR: a run that cannot write a checkpoint fails"
            raise Degraded(f"{found}; disk nearly full: worker {name} has {format_bytes(int(free))} left", hint)
    return found


def queues(database: Database) -> str:
    """Report how many jobs are waiting and for how long. Raises Degraded if the longest wait exceeds an hour."""
    parts, longest = [], 0.0
    with database.transaction() as session:
        for job in JOBS.values():
            age: Any = func.extract("epoch", func.now() - func.min(job.queued_at))
            waiting, oldest = session.execute(select(func.count(), age).where(job.status.in_(CLAIMABLE))).one()
            longest = max(longest, float(oldest or 0))
            parts.append(f"{waiting} {job.KIND}s waiting" + (f", oldest {float(oldest):.0f} s" if oldest else ""))
    found = "; ".join(parts)
    if longest > _LONG_WAIT_SECONDS:
        raise Degraded(found, "start more workers, or check the logs of the workers")
    return found


def leases(database: Database) -> str:
    """Check that no job is still leased to a worker that has disappeared."""
    # Running workers look for such jobs every `reconcile_seconds` and requeue them.
    oldest = func.now() - timedelta(seconds=2 * database.settings.reconcile_seconds)
    with database.transaction() as session:
        held = [
            f"{job.KIND} {id} (by {owner})"
            for job in JOBS.values()
            for id, owner in session.execute(
                select(job.id, job.lease_owner).where(job.status.in_(HELD), job.lease_expires_at < oldest)
            )
        ]
    if held:
        more = " and more" if len(held) > _MAX_LISTED else ""
        detail = f"held by workers that have disappeared: {', '.join(held[:_MAX_LISTED])}{more}"
        raise Degraded(detail, "start a worker, which requeues them")
    return "no expired leases"


def clock(database: Database) -> str:
    """Check that the clocks of this machine and the database agree.

    Displayed times depend on this, but leases do not.
    """
    with database.transaction() as session:
        session.execute(text("SELECT 1"))  # connect first, so that the next statement takes one round trip
        before = datetime.now(UTC)
        theirs: datetime = session.execute(select(func.clock_timestamp())).scalar_one()
        after = datetime.now(UTC)
    skew = (theirs - before - (after - before) / 2).total_seconds()
    if abs(skew) > _MAX_SKEW_SECONDS:
        hint = "synchronize both with NTP: times in logs and responses differ, and S3 rejects requests"
        raise Degraded(f"the database's clock is {abs(skew):.0f} s {'ahead' if skew > 0 else 'behind'}", hint)
    return f"{abs(skew):.1f} s from the database's clock"


def broker(queue: Queue, reconcile_seconds: float) -> str:
    """Check that the broker responds, and report its name, version and durability."""
    checks.broker(queue)
    info = queue.server()
    name = "Valkey" if "valkey_version" in info else "Redis"
    release = info.get("valkey_version") or info.get("redis_version", "")
    durability = (
        "stores messages on disk"
        if info.get("aof_enabled")
        else f"loses messages when it is killed: jobs then wait up to {reconcile_seconds:g} s"
    )
    return f"{name} {release} {durability}"
