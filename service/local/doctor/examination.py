"""Run all checks in order, from this machine to its servers and jobs."""

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from functools import partial
from pathlib import Path

from pydantic import ValidationError

from service.core.settings import Settings
from service.db.session import Database, connect
from service.http.errors import ReadinessCheck
from service.jobs.queue import Queue
from service.local.doctor import jobs, machine
from service.local.running_servers import find_running
from service.observability import checks
from service.observability.checks import STORAGE_HINT, run

_MIN_FREE_BYTES: int = Settings.model_fields["min_free_bytes"].default


def examine(data: Path, port: int) -> Iterator[ReadinessCheck]:
    """Check the service on `data`, and yield the result of each check.

    Checks that depend on a failed check are skipped. The servers are those configured in the environment, otherwise the
    servers of the `g2rpo up` that runs on `data`.
    """
    data = data.absolute()
    running = find_running(data)
    own = {"database_url": running.database_url, "broker_url": running.broker_url} if running else {}
    named = {name: f"G2RPO_{name.upper()}" in os.environ for name in ("database_url", "broker_url")}
    settings, invalid = None, None
    try:
        settings = Settings(
            data_dir=data,
            **{name: url for name, url in own.items() if url and not named[name]},  # type: ignore[arg-type]
        )
    except ValidationError as error:
        invalid = error
    yield run("python", machine.python)
    yield run("packages", machine.packages)
    yield run("settings", lambda: machine.variables(os.environ, invalid))
    min_free_bytes = settings.min_free_bytes if settings else _MIN_FREE_BYTES
    yield run("data directory", lambda: machine.data_directory(data, min_free_bytes))
    yield run("catalog", machine.catalog)
    if settings is not None:
        yield from _servers(settings, {name: named[name] or bool(own.get(name)) for name in named}, bool(running))
    if not all(named.values()):
        yield run("embedded servers", machine.embedded_servers)
        if running is None:
            yield run("port", lambda: machine.port(port))
    yield run("torch", machine.torch, "a worker needs torch; an API does not")


def _servers(settings: Settings, present: dict[str, bool], running: bool) -> Iterator[ReadinessCheck]:
    with ExitStack() as connections:
        try:
            database = connections.enter_context(closing(connect(settings)))
            queue = connections.enter_context(closing(Queue(settings)))
        except Exception as error:  # fsspec raises various exceptions for an invalid URL
            yield ReadinessCheck(name="storage", ok=False, detail=str(error), hint=STORAGE_HINT)
            return
        if present["database_url"]:
            yield from _database(database)
        else:
            yield _started_by_up("database", "PostgreSQL", "G2RPO_DATABASE_URL")
        if present["broker_url"]:
            yield run("broker", lambda: jobs.broker(queue, settings.reconcile_seconds))
        else:
            yield _started_by_up("broker", "Valkey", "G2RPO_BROKER_URL")
        if running or settings.storage_url or all(present.values()):
            yield run("storage", lambda: checks.storage(database), STORAGE_HINT)


def _database(database: Database) -> Iterator[ReadinessCheck]:
    steps: dict[str, Callable[[Database], str]] = {
        "database": checks.database,
        "clock": jobs.clock,
        "schema": checks.schema,
        "workers": jobs.workers,
        "queues": jobs.queues,
        "leases": jobs.leases,
    }
    for name, check in steps.items():
        yield (result := run(name, partial(check, database)))
        if not result.ok and name in ("database", "schema"):
            return


def _started_by_up(name: str, server: str, variable: str) -> ReadinessCheck:
    detail = f"{variable} is not set, and no `g2rpo up` runs on this data; it starts its own {server}"
    return ReadinessCheck(name=name, ok=True, detail=detail)
