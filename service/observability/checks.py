"""Check the service's dependencies. Each check returns its findings, or raises an error that says how to fix it."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta

from sqlalchemy import Connection, func, select, text
from sqlalchemy.engine import make_url
from sqlalchemy.exc import SQLAlchemyError

from service.core.catalog_loader import CatalogLoader
from service.db.models import Worker
from service.db.session import Database
from service.http.errors import ReadinessCheck
from service.jobs.queue import Queue
from service.jobs.registry import queues

STORAGE_HINT = "fix G2RPO_STORAGE_URL, or make the artifact store writable with free space"
_OLDEST_SERVER = 150_000
"""PostgreSQL 15, in the format of `server_version_num`."""
_MIGRATE = "run `python -m service.db.migrate`; `g2rpo up` does so automatically"
_POOL = "raise its max_connections, or lower G2RPO_DATABASE_POOL"
_CONNECTION_HINTS = (
    ("password authentication failed", "the user or the password is wrong; fix it"),
    ("no password supplied", "the server requires a password; add it"),
    ("does not exist", "create it, or fix the name"),
    ("resolve host", "the host was not found; check the hostname"),
    ("too many clients", _POOL),
    ("connection slots", _POOL),
    ("starting up", "wait until the server has started"),
    ("timeout", "the host does not respond; check the hostname and the network"),
)
"""Pairs of a phrase in PostgreSQL's connection errors and a hint on how to fix the problem."""
_BROKER_PASSWORD = ("wrongpass", "noauth", "authentication")


class Failed(Exception):
    """The service cannot run. `hint` says how to fix the problem."""

    def __init__(self, detail: str, hint: str) -> None:
        super().__init__(detail)
        self.hint = hint


class Degraded(Failed):
    """The service runs, but not as intended."""


class Skipped(Exception):
    """A check was skipped because one of its dependencies is not available."""


def run(name: str, check: Callable[[], str], hint: str = "") -> ReadinessCheck:
    """Run `check` and return its result. `hint` is used for errors that have no hint of their own."""
    try:
        return ReadinessCheck(name=name, ok=True, detail=check())
    except Failed as failed:
        return ReadinessCheck(name=name, ok=isinstance(failed, Degraded), detail=str(failed), hint=failed.hint)
    except Skipped as skipped:
        return ReadinessCheck(name=name, ok=False, detail=f"not checked: {skipped}")
    except Exception as error:
        return ReadinessCheck(name=name, ok=False, detail=_reason(error), hint=hint)  # drivers raise various exceptions


def database(database: Database) -> str:
    """Check that the database server responds, is recent enough, and can store every character."""
    with _connected(database) as connection:
        version = connection.scalar(text("SHOW server_version"))
        number = int(connection.scalar(text("SHOW server_version_num")) or 0)
        encoding = connection.scalar(text("SHOW server_encoding"))
    if number < _OLDEST_SERVER:
        raise Failed(f"PostgreSQL {version} is too old", "upgrade to PostgreSQL 15 or newer")
    if encoding != "UTF8":
        hint = "create another one with ENCODING 'UTF8' TEMPLATE template0, and set G2RPO_DATABASE_URL to it"
        raise Failed(f"the database has the encoding {encoding}, which cannot store every prompt", hint)
    return f"PostgreSQL {version}"


def schema(database: Database) -> str:
    """Check that the schema has the revision that this version of the service requires."""
    current, newest = _revisions(database)
    if current != newest:
        raise Failed(f"the schema has revision {current or 'none'}, but this service needs {newest}", _MIGRATE)
    return f"revision {current}"


def upgradable(database: Database) -> str:
    """Check that the schema has a revision known to this version of the service, or that there is no schema yet."""
    current, newest = _revisions(database)
    return f"revision {current or 'none'}, to be upgraded to {newest}"


def broker(queue: Queue) -> str:
    """Check that the broker responds."""
    try:
        queue.ping()
    except Exception as error:  # the transport raises various exceptions, including for an invalid address
        reason = _reason(error).strip("'\".")
        if any(word in reason.lower() for word in _BROKER_PASSWORD):
            hint = "set the right password in G2RPO_BROKER_URL: redis://:PASSWORD@HOST:6379/0"
        elif reason.startswith("No such transport"):
            hint = "G2RPO_BROKER_URL must start with redis://, rediss:// or redis+socket://"
        else:
            hint = f"start Valkey or Redis, or fix G2RPO_BROKER_URL (now {queue.address}); until then, jobs wait"
        raise Failed(reason, hint) from error
    return "responds"


def storage(database: Database) -> str:
    """Check that a file can be written, read and removed in the artifact store, and that there is free space."""
    free = free_space(database)
    database.artifacts.check()
    return "writable and readable" + ("" if free is None else f", {format_bytes(free)} free")


def free_space(database: Database) -> int | None:
    """Return the artifact store's free bytes, or None if unknown. Raises Failed if they are below `min_free_bytes`."""
    free, required = database.artifacts.free_bytes(), database.settings.min_free_bytes
    if free is not None and free < required:
        found = f"disk nearly full: {format_bytes(free)} left in {database.artifacts.url}"
        hint = f"free some space (G2RPO_MIN_FREE_BYTES requires {format_bytes(required)}), or choose another store"
        raise Failed(found, f"{hint} with G2RPO_STORAGE_URL")
    return free


def catalog(loader: CatalogLoader) -> str:
    """Check that the current version of the catalog file is in use."""
    catalog = loader.current()
    if loader.problem is not None:
        hint = "fix the file (`g2rpo catalog check`); until then the previous catalog stays in use"
        raise Degraded(" ".join(loader.problem.split()), hint)
    return f"{len(catalog.models)} models, {len(catalog.rewards)} rewards, {len(catalog.prompt_sets)} prompt sets"


def workers(database: Database) -> str:
    """Check that each queue has a worker. Raises Degraded otherwise, because jobs are still accepted and wait."""
    oldest = func.now() - timedelta(seconds=database.settings.worker_timeout_seconds)
    with _connected(database, Skipped("the database cannot be read")) as connection:
        try:
            rows = connection.execute(
                select(Worker.queue, func.count()).where(Worker.heartbeat_at > oldest).group_by(Worker.queue)
            )
            present = dict.fromkeys(queues(), 0) | dict(rows.tuples().all())
        except SQLAlchemyError as error:
            raise Skipped("the schema is not current") from error
    found = ", ".join(f"{number} for {queue}" for queue, number in present.items())
    idle = [queue for queue, number in present.items() if number == 0]
    if idle:
        command = " and ".join(f"`celery --app worker.celery_app worker --queues {queue}`" for queue in idle)
        raise Degraded(f"{found}: jobs for {' and '.join(idle)} are accepted and wait", f"start {command}")
    return found


def format_bytes(size: int) -> str:
    """Format a number of bytes in GiB or MiB."""
    return f"{size / 2**30:.1f} GiB" if size >= 2**30 else f"{size / 2**20:.0f} MiB"


def _revisions(database: Database) -> tuple[str | None, str | None]:
    """Return the schema's revision (None if there is no schema) and the newest one. Raises Failed if it is unknown."""
    from service.db import migrate  # importing Alembic takes 0.1 s

    with _connected(database, Skipped("the database cannot be reached")) as connection:
        current = migrate.current(connection)
    newest = migrate.head()
    if current is not None and not migrate.knows(current):
        found = f"the schema has revision {current}, which this service, at {newest}, does not know"
        hint = "a newer version of the service created it: install that version, or restore an older backup"
        raise Failed(found, hint)
    return current, newest


@contextmanager
def _connected(database: Database, instead: Exception | None = None) -> Iterator[Connection]:
    """Open a connection. Raises `instead` if the connection fails, or Failed with the cause if `instead` is None."""
    try:
        connection = database.engine.connect().execution_options(isolation_level="AUTOCOMMIT")
    except Exception as error:
        raise instead or _not_connected(database, error) from error
    with connection:
        yield connection


def _not_connected(database: Database, error: Exception) -> Failed:
    reason = _reason(getattr(error, "orig", None) or error)
    address = make_url(database.settings.database_url).render_as_string(hide_password=True)
    text = str(getattr(error, "orig", None) or error).lower()
    hint = next((hint for sign, hint in _CONNECTION_HINTS if sign in text), "start PostgreSQL")
    return Failed(reason, f"{hint}, or change G2RPO_DATABASE_URL (now {address})")


def _reason(error: BaseException) -> str:
    """Return the first line of an error's message, or the name of its type if the message is empty."""
    return (str(error).strip() or type(error).__name__).splitlines()[0][:300]
