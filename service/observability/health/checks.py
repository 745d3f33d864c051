"""Looking at what the service stands on: each check says what it found, or what is wrong and how to mend it."""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

from sqlalchemy import Connection, func, select, text
from sqlalchemy.engine import make_url
from sqlalchemy.exc import SQLAlchemyError

from service.core.catalog_loader import Offer
from service.db.models import Worker
from service.db.session import Database
from service.jobs.queue import Queue
from service.jobs.registry import queues
from service.observability.health.findings import Doubtful, Unknown, Wrong

_OLDEST_SERVER = 150_000
"""PostgreSQL 15, as `server_version_num` says it."""
_MIGRATE = "run `python -m service.db.migrate`; `g2rpo up` does it by itself"
_CONNECTING = (
    ("password authentication failed", "the user or the password is wrong: mend it"),
    ("no password supplied", "it asks for a password: put one"),
    ("does not exist", "create it, or mend the name"),
    ("resolve host", "there is no machine of that name: mend it"),
    ("too many clients", "raise its max_connections, or lower G2RPO_DATABASE_POOL; the address is"),
    ("connection slots", "raise its max_connections, or lower G2RPO_DATABASE_POOL; the address is"),
    ("starting up", "wait until it has started; the address is"),
    ("timeout", "nothing answers there: is it the right machine, and may it be reached? It is"),
)
"""What a failed connection says, and what to do about what is in G2RPO_DATABASE_URL."""
_BROKER_PASSWORD = ("wrongpass", "noauth", "authentication")


def database(database: Database) -> str:
    """The server answers, is new enough, and stores every character."""
    with _connected(database) as connection:
        version = connection.scalar(text("SHOW server_version"))
        number = int(connection.scalar(text("SHOW server_version_num")) or 0)
        encoding = connection.scalar(text("SHOW server_encoding"))
    if number < _OLDEST_SERVER:
        raise Wrong(f"PostgreSQL {version} is too old", "upgrade it to PostgreSQL 15 or newer")
    if encoding != "UTF8":
        hint = "create another one with ENCODING 'UTF8' TEMPLATE template0, and name it in G2RPO_DATABASE_URL"
        raise Wrong(f"the database is encoded in {encoding}, which cannot hold every prompt", hint)
    return f"PostgreSQL {version}"


def schema(database: Database) -> str:
    """The schema is the one that this version of the service was written for."""
    current, newest = _revisions(database)
    if current != newest:
        raise Wrong(f"the schema is at {current or 'nothing'}, this service wants {newest}", _MIGRATE)
    return f"at {current}"


def upgradable(database: Database) -> str:
    """The schema is this version's or an older one's, which can be brought up to it."""
    current, newest = _revisions(database)
    return f"at {current or 'nothing'}, to be at {newest}"


def broker(queue: Queue) -> str:
    """The broker answers."""
    try:
        queue.ping()
    except Exception as error:
        # Whatever the transport raises, also for an address that is none.
        reason = (str(error).strip() or type(error).__name__).splitlines()[0][:300].strip("'\".")
        if any(word in reason.lower() for word in _BROKER_PASSWORD):
            hint = "put the right password into G2RPO_BROKER_URL: redis://:PASSWORD@HOST:6379/0"
        elif reason.startswith("No such transport"):
            hint = "G2RPO_BROKER_URL must begin with redis://, rediss:// or redis+socket://"
        else:
            hint = f"start Valkey or Redis, or mend G2RPO_BROKER_URL (now {queue.address}); jobs wait meanwhile"
        raise Wrong(reason, hint) from error
    return "answers"


def storage(database: Database) -> str:
    """A file can be written, read and removed, and there is room for more."""
    free = room(database)
    database.artifacts.check()
    return "can be written and read" + ("" if free is None else f", {in_words(free)} free")


def room(database: Database) -> int | None:
    """Bytes left in the artifact store; None where it does not tell. Raises Wrong when that is too little."""
    free, least = database.artifacts.free_bytes(), database.settings.min_free_bytes
    if free is not None and free < least:
        found = f"disk nearly full: {in_words(free)} left in {database.artifacts.url}"
        hint = f"make room there (G2RPO_MIN_FREE_BYTES asks for {in_words(least)}), or name another place"
        raise Wrong(found, f"{hint} in G2RPO_STORAGE_URL")
    return free


def catalog(offer: Offer) -> str:
    """The catalog's file is what is offered. One that cannot be used keeps nothing from working."""
    catalog = offer.current()
    if offer.problem is not None:
        hint = "mend the file (`g2rpo catalog check`); until then the catalog is the one that was read before"
        raise Doubtful(" ".join(offer.problem.split()), hint)
    return f"{len(catalog.models)} models, {len(catalog.rewards)} rewards, {len(catalog.prompt_sets)} prompt sets"


def workers(database: Database) -> str:
    """Each kind of job has somebody to do it. Jobs are accepted without, and wait."""
    lately = func.now() - timedelta(seconds=database.settings.worker_timeout_seconds)
    with _connected(database, Unknown("the database cannot be read")) as connection:
        try:
            rows = connection.execute(
                select(Worker.queue, func.count()).where(Worker.heartbeat_at > lately).group_by(Worker.queue)
            )
            present = dict.fromkeys(queues(), 0) | dict(rows.tuples().all())
        except SQLAlchemyError as error:
            raise Unknown("the schema is not right") from error
    found = ", ".join(f"{number} for {queue}" for queue, number in present.items())
    idle = [queue for queue, number in present.items() if number == 0]
    if idle:
        command = " and ".join(f"`celery --app worker.celery_app worker --queues {queue}`" for queue in idle)
        raise Doubtful(f"{found}: jobs for {' and '.join(idle)} are accepted, and wait", f"start {command}")
    return found


def _revisions(database: Database) -> tuple[str | None, str | None]:
    """The schema's revision, None where there is none, and the one it should have. Raises Wrong for a newer one."""
    from service.db import migrate  # Alembic is 0.1 s that no other route has to pay

    with _connected(database, Unknown("the database cannot be reached")) as connection:
        current = migrate.current(connection)
    newest = migrate.head()
    if current is not None and not migrate.knows(current):
        found = f"the schema is at {current}, which this service, at {newest}, does not know"
        hint = "a newer version of the service made it: install that one, or restore the backup from before it"
        raise Wrong(found, hint)
    return current, newest


def in_words(size: int) -> str:
    """A number of bytes, for people."""
    return f"{size / 2**30:.1f} GiB" if size >= 2**30 else f"{size / 2**20:.0f} MiB"


@contextmanager
def _connected(database: Database, instead: Exception | None = None) -> Iterator[Connection]:
    """A connection; where there is none, `instead` or the reason is raised."""
    try:
        connection = database.engine.connect().execution_options(isolation_level="AUTOCOMMIT")
    except Exception as error:
        raise instead or _not_connected(database, error) from error
    with connection:
        yield connection


def _not_connected(database: Database, error: Exception) -> Wrong:
    said = str(getattr(error, "orig", None) or error).strip() or type(error).__name__
    reason = said.splitlines()[0][:300]
    url = make_url(database.settings.database_url).render_as_string(hide_password=True)
    for sign, hint in _CONNECTING:
        if sign in said.lower():
            return Wrong(reason, f"{hint} in G2RPO_DATABASE_URL (now {url})")
    return Wrong(reason, f"start PostgreSQL there, or mend G2RPO_DATABASE_URL (now {url})")
