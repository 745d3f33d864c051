"""Everything that is looked at, in order: from what is on this machine to what runs elsewhere."""

import os
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from pydantic import ValidationError

from service.core.settings import Settings
from service.db.session import Database, connect
from service.http.errors import ReadinessCheck
from service.jobs.queue import Queue
from service.local.doctor import installation, jobs, machine
from service.local.running import find
from service.observability.health import checks
from service.observability.health.findings import look

_STORAGE_HINT = "mend G2RPO_STORAGE_URL, or make its place writable with room left"
_MIN_FREE_BYTES: int = Settings.model_fields["min_free_bytes"].default


def examine(data: Path, port: int) -> Iterator[ReadinessCheck]:
    """Every finding about the service on the files in `data`, as it is found.

    What depends on something that is missing is not looked at: a cause is told once. Servers that no variable names
    are those of a `g2rpo up` on `data`, if it runs.
    """
    data = data.absolute()
    running = find(data)
    own = {"database_url": running.database_url, "broker_url": running.broker_url} if running else {}
    named = {name: f"G2RPO_{name.upper()}" in os.environ for name in ("database_url", "broker_url")}
    settings, refused = None, None
    try:
        settings = Settings(
            data_dir=data,
            **{name: url for name, url in own.items() if url and not named[name]},  # type: ignore[arg-type]
        )
    except ValidationError as error:
        refused = error
    yield look("python", installation.python)
    yield look("packages", installation.packages)
    yield look("settings", lambda: machine.variables(os.environ, refused))
    least = settings.min_free_bytes if settings else _MIN_FREE_BYTES
    yield look("data directory", lambda: machine.data_directory(data, least))
    yield look("catalog", machine.catalog)
    if settings is not None:
        yield from _servers(settings, {name: named[name] or bool(own.get(name)) for name in named}, bool(running))
    if not all(named.values()):
        yield look("embedded servers", installation.wheels)
        if running is None:
            yield look("port", lambda: machine.port(port))
    yield look("torch", installation.torch, "a worker needs it; an API alone does not")


def _servers(settings: Settings, there: dict[str, bool], running: bool) -> Iterator[ReadinessCheck]:
    try:
        database, queue = connect(settings), Queue(settings)
    except Exception as error:
        # fsspec raises what it likes for a URL it has no use for.
        yield ReadinessCheck(name="storage", ok=False, detail=str(error), hint=_STORAGE_HINT)
        return
    try:
        if there["database_url"]:
            yield from _database(database)
        else:
            yield _left_to_up("database", "PostgreSQL", "G2RPO_DATABASE_URL")
        if there["broker_url"]:
            yield look("broker", lambda: jobs.broker(queue, settings.reconcile_seconds))
        else:
            yield _left_to_up("broker", "Valkey", "G2RPO_BROKER_URL")
        if running or settings.storage_url or all(there.values()):
            yield look("storage", lambda: checks.storage(database), _STORAGE_HINT)
    finally:
        queue.close()
        database.close()


def _database(database: Database) -> Iterator[ReadinessCheck]:
    yield (reached := look("database", lambda: checks.database(database)))
    if not reached.ok:
        return
    yield look("clock", lambda: jobs.clock(database))
    yield (current := look("schema", lambda: checks.schema(database)))
    if not current.ok:
        return
    looks: tuple[tuple[str, Callable[[Database], str]], ...] = (
        ("workers", jobs.workers),
        ("queues", jobs.queues),
        ("leases", jobs.leases),
    )
    for name, check in looks:
        yield look(name, partial(check, database))


def _left_to_up(name: str, server: str, variable: str) -> ReadinessCheck:
    detail = f"{variable} is not set: `g2rpo up`, which does not run on this data, brings a {server} of its own"
    return ReadinessCheck(name=name, ok=True, detail=detail)
