"""Real servers for tests: embedded PostgreSQL and Valkey, or the servers at G2RPO_DATABASE_URL and G2RPO_BROKER_URL.

One server of each serves a whole test session, in one process or in several (pytest-xdist). Each process has its own
databases and its own broker database. `database` is emptied before each test; `new_database_url` creates another
database for a test that needs its own.
"""

import contextlib
import dataclasses
import gc
import os
import shutil
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from functools import cached_property
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlencode, urlsplit

import hypothesis
import pytest
import structlog
from sqlalchemy import Engine, create_engine, text
from sqlalchemy.engine import make_url
from xdist.scheduler import LoadFileScheduling

from service.core.settings import Settings
from service.db import migrate
from service.db.artifacts import ArtifactStore
from service.db.session import Database, connect
from service.local import postgres, valkey
from service.local.server import Server
from tests.database_cleanup import empty

# A process of pytest-xdist inherits COLUMNS=80 from its parent's readline, and rich keeps the width that it finds when
# a console is created. Without the variable, a console reads the width each time it prints, as tests set it.
os.environ.pop("COLUMNS", None)

_PATIENCE = 180.0
_RECENT = 60.0
"""Seconds before a failure within which a log file must have been written to be printed."""
_TAIL = 2000
"""Characters of each log file that a failed test prints."""

# Threads of an operator wait without using a core, because all cores may be busy. Read when torch is imported.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

# By default a logged exception is printed with every local variable, which takes half a second each time.
_plain = structlog.dev.ConsoleRenderer(colors=False, exception_formatter=structlog.dev.plain_traceback)
structlog.configure(processors=[*structlog.get_config()["processors"][:-1], _plain])

# The same examples every time, and no deadline: the machine may be busy.
hypothesis.settings.register_profile("repeatable", deadline=None, derandomize=True, database=None, max_examples=50)
hypothesis.settings.load_profile("repeatable")


class Servers:
    """The servers of a test session, each started on first use."""

    def __init__(self) -> None:
        self._directory = Path(tempfile.mkdtemp(prefix="g2rpo-tests-"))
        self._running: list[Server] = []

    @cached_property
    def database_url(self) -> str:
        """The URL of a PostgreSQL server."""
        if given := os.environ.get("G2RPO_DATABASE_URL"):
            return given
        return self._keep(postgres.start(self._directory / "postgres", durable=False))

    @cached_property
    def broker_url(self) -> str:
        """The URL of a Valkey or Redis server."""
        if given := os.environ.get("G2RPO_BROKER_URL"):
            return given
        return self._keep(valkey.start(self._directory / "valkey"))

    def _keep(self, server: Server) -> str:
        self._running.append(server)
        return server.url

    def stop(self) -> None:
        """Stop the started servers and remove their files."""
        for server in self._running:
            server.stop()
        shutil.rmtree(self._directory, ignore_errors=True)


_SERVERS = pytest.StashKey[Servers]()


def pytest_configure(config: pytest.Config) -> None:
    """Prepare the servers in the process that runs or distributes the tests."""
    if not hasattr(config, "workerinput"):
        config.stash[_SERVERS] = Servers()


def pytest_configure_node(node: Any) -> None:
    """Pass the addresses of the session's servers to a worker process of pytest-xdist."""
    servers = node.config.stash[_SERVERS]
    node.workerinput |= {"database_url": servers.database_url, "broker_url": servers.broker_url}


def pytest_unconfigure(config: pytest.Config) -> None:
    """Stop the session's servers."""
    if _SERVERS in config.stash:
        config.stash[_SERVERS].stop()


class _Scheduling(LoadFileScheduling):
    """Run each module in one process, and all modules that share a running service in one."""

    def _split_scope(self, nodeid: str) -> str:
        scope = super()._split_scope(nodeid)
        return "tests/integration" if scope.startswith("tests/integration/") else scope


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> LoadFileScheduling:
    """How `pytest -n` distributes tests."""
    return _Scheduling(config, log)


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Run long modules first, so that no process runs one at the end while others are idle."""
    items.sort(key=lambda item: item.get_closest_marker("long") is None)


def pytest_collection_finish() -> None:
    """Exclude half a million objects of imported modules from garbage collection, which saves 0.25 s each time."""
    _freeze()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item, nextitem: pytest.Item | None) -> Any:
    """Also exclude what is left after each module, such as modules that its tests import and caches of libraries."""
    result = yield
    if nextitem is not None and nextitem.path != item.path:
        _freeze()
    return result


def _freeze() -> None:
    gc.collect()
    gc.freeze()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Any:
    """Add the ends of the logs that a failed test's jobs and servers wrote."""
    report = yield
    if report.failed:
        for file in _logs(getattr(item, "funcargs", {}), since=call.start - _RECENT):
            written = file.read_text(encoding="utf-8", errors="replace").strip()
            if written:
                report.sections.append((f"end of {file}", written[-_TAIL:]))
    return report


def _logs(arguments: dict[str, Any], since: float) -> list[Path]:
    """The log files below a test's directories that were written recently."""
    directories = {value for value in arguments.values() if isinstance(value, Path)}
    directories |= {value.data for value in arguments.values() if isinstance(getattr(value, "data", None), Path)}
    found = {file for directory in directories for pattern in ("*.log", "log.txt") for file in directory.rglob(pattern)}
    return sorted(file for file in found if file.is_file() and file.stat().st_mtime >= since)


@pytest.fixture(scope="session")
def shared() -> Path:
    """Test data outside the project: `$SHARED_DATA`, otherwise `shared/` in the nearest parent directory."""
    here = Path(__file__).resolve()
    places = (
        [Path(os.environ["SHARED_DATA"])] if "SHARED_DATA" in os.environ else [up / "shared" for up in here.parents]
    )
    for place in places:
        if (place / "golden").is_dir():
            return place
    pytest.skip("needs shared test data: set SHARED_DATA, or have shared/ in a directory above the tests")


@pytest.fixture(scope="session")
def eventually() -> Callable[[Callable[[], object]], None]:
    """Waits until a condition holds, for at most three minutes."""

    def wait(condition: Callable[[], object]) -> None:
        deadline = time.monotonic() + _PATIENCE
        while not condition():
            assert time.monotonic() < deadline, "the condition was not met within three minutes"
            time.sleep(0.01)

    return wait


@pytest.fixture(scope="session")
def server_url(pytestconfig: pytest.Config) -> str:
    """A PostgreSQL server on which databases can be created."""
    given = getattr(pytestconfig, "workerinput", {}).get("database_url")
    return given or pytestconfig.stash[_SERVERS].database_url


@pytest.fixture(scope="session")
def broker_url(pytestconfig: pytest.Config) -> str:
    """A Valkey or Redis server, and a database on it that no other test process uses."""
    if not hasattr(pytestconfig, "workerinput"):
        return pytestconfig.stash[_SERVERS].broker_url
    number = int(pytestconfig.workerinput["workerid"].removeprefix("gw"))
    return _with_database(pytestconfig.workerinput["broker_url"], number)


def _with_database(url: str, number: int) -> str:
    """The broker URL with another of its sixteen databases: `number` is added to the number in the URL."""
    parts = urlsplit(url)
    if parts.scheme.endswith("socket"):
        query = parse_qs(parts.query)
        own = int(query.get("virtual_host", ["0"])[0])
        query["virtual_host"] = [str((own + number) % 16)]
        return f"{url.partition('?')[0]}?{urlencode(query, doseq=True)}"
    own = int(parts.path.strip("/") or 0)
    return parts._replace(path=f"/{(own + number) % 16}").geturl()


@pytest.fixture(scope="session")
def admin(server_url: str) -> Iterator[Engine]:
    """Connections that may create and drop databases."""
    engine = create_engine(server_url, isolation_level="AUTOCOMMIT")
    yield engine
    engine.dispose()


@contextlib.contextmanager
def _database(admin: Engine, template: str | None = None) -> Iterator[str]:
    name = f"g2rpo_test_{uuid.uuid4().hex}"
    with admin.connect() as connection:
        connection.execute(text(f"CREATE DATABASE {name}" + (f" TEMPLATE {template}" if template else "")))
    yield admin.url.set(database=name).render_as_string(hide_password=False)
    with admin.connect() as connection:
        connection.execute(text(f"DROP DATABASE {name} WITH (FORCE)"))


@pytest.fixture(scope="session")
def template(admin: Engine) -> Iterator[str]:
    """The name of a migrated, empty database to copy."""
    with _database(admin) as url:
        migrate.upgrade(url)
        yield str(make_url(url).database)


@pytest.fixture(scope="session")
def database_url(admin: Engine, template: str) -> Iterator[str]:
    """The migrated database of this test session."""
    with _database(admin, template) as url:
        yield url


@pytest.fixture
def empty_database_url(admin: Engine) -> Iterator[str]:
    """A database without a schema, for one test."""
    with _database(admin) as url:
        yield url


@pytest.fixture
def new_database_url(admin: Engine, template: str) -> Iterator[str]:
    """A migrated database for a single test, for example one with worker processes."""
    with _database(admin, template) as url:
        yield url


@pytest.fixture
def settings(database_url: str, broker_url: str, tmp_path: Path) -> Settings:
    """Settings with the session's servers and an artifact store in the test's directory."""
    return Settings(
        database_url=database_url,
        broker_url=broker_url,
        data_dir=tmp_path,
        log_level="CRITICAL",
        max_wait_seconds=60,
        worker_timeout_seconds=60,
    )


@pytest.fixture(scope="session")
def connections(database_url: str) -> Iterator[Database]:
    """The connections to the session's database that all tests of this process share."""
    connected = connect(Settings(database_url=database_url))
    yield connected
    connected.close()


@pytest.fixture
def database(connections: Database, settings: Settings) -> Iterator[Database]:
    """The session's database, emptied."""
    empty(connections)
    yield dataclasses.replace(connections, settings=settings, artifacts=ArtifactStore(settings.artifacts_url))
    if connections.engine.pool.checkedout():  # type: ignore[attr-defined]
        connections.close()  # a test has left connections open; the next test gets new ones
