"""Looking at what the service stands on, one thing at a time, and saying how to mend what is missing."""

from collections.abc import Callable

from sqlalchemy import text
from sqlalchemy.engine import make_url

from service.db.session import Database
from service.errors import NotReady, ReadinessCheck
from service.health.schemas import Ready
from service.queue import Queue


def readiness(database: Database, queue: Queue) -> Ready:
    """Every check, all well. Raises NotReady, with every check, unless they are."""
    url = make_url(database.settings.database_url).render_as_string(hide_password=True)
    checks = [
        _check("database", lambda: _database(database), f"start PostgreSQL, or mend G2RPO_DATABASE_URL (now {url})"),
        _check("schema", lambda: _schema(database), "run `python -m service.db.migrate`; `g2rpo up` does it by itself"),
        _check(
            "broker", lambda: _broker(queue), "start Valkey or Redis, or mend G2RPO_BROKER_URL; jobs wait meanwhile"
        ),
        _check(
            "storage", lambda: _storage(database), "mend G2RPO_STORAGE_URL, or make its place writable with room left"
        ),
    ]
    failed = [check for check in checks if not check.ok]
    if failed:
        detail = "; ".join(f"{check.name}: {check.detail}" for check in failed)
        raise NotReady(detail, checks=[check.model_dump() for check in checks])
    return Ready(checks=checks)


def _check(name: str, look: Callable[[], str], hint: str) -> ReadinessCheck:
    try:
        return ReadinessCheck(name=name, ok=True, detail=look())
    except Exception as error:
        # A check fails by whatever its driver raises; this route is for telling people which one and why.
        reason = (str(error).strip() or type(error).__name__).splitlines()[0][:300]
        return ReadinessCheck(name=name, ok=False, detail=reason, hint=hint)


def _database(database: Database) -> str:
    with database.engine.connect() as connection:
        return f"PostgreSQL {connection.scalar(text('SHOW server_version'))}"


def _schema(database: Database) -> str:
    from service.db import migrate  # Alembic is 0.1 s that no other route has to pay

    with database.engine.connect() as connection:
        current = migrate.current(connection)
    newest = migrate.head()
    if current != newest:
        raise RuntimeError(f"the schema is at {current or 'nothing'}, this service wants {newest}")
    return f"at {current}"


def _broker(queue: Queue) -> str:
    queue.ping()
    return "answers"


def _storage(database: Database) -> str:
    database.artifacts.check()
    return "can be written and read"
