"""Real servers for tests: PostgreSQL and Valkey, embedded, or those that G2RPO_DATABASE_URL and G2RPO_BROKER_URL name.

One server and one migrated template database serve a whole test session. `database` is emptied before each test;
`new_database` makes another one for a test that needs its own.
"""

import contextlib
import os
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import hypothesis
import pytest
from sqlalchemy import Engine, create_engine, text
from sqlalchemy.engine import make_url

from service.db import migrate
from service.db.base import Base
from service.db.session import Database, connect
from service.settings import Settings

_PATIENCE = 180.0

# The same examples every time, and no deadline: the machine may be busy.
hypothesis.settings.register_profile("repeatable", deadline=None, derandomize=True, database=None, max_examples=50)
hypothesis.settings.load_profile("repeatable")


@pytest.fixture(scope="session")
def shared() -> Path:
    """Data that tests may read and the project does not contain: `$SHARED_DATA`, else the nearest `shared/` upwards."""
    here = Path(__file__).resolve()
    places = (
        [Path(os.environ["SHARED_DATA"])] if "SHARED_DATA" in os.environ else [up / "shared" for up in here.parents]
    )
    for place in places:
        if (place / "golden").is_dir():
            return place
    pytest.skip("there is no shared/ with data and golden results above this repository; SHARED_DATA may name it")


@pytest.fixture(scope="session")
def eventually() -> Callable[[Callable[[], object]], None]:
    """Waits until a condition holds, for at most three minutes."""

    def wait(condition: Callable[[], object]) -> None:
        deadline = time.monotonic() + _PATIENCE
        while not condition():
            assert time.monotonic() < deadline, "the condition did not come to hold within three minutes"
            time.sleep(0.01)

    return wait


@pytest.fixture(scope="session")
def server_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A PostgreSQL server on which databases can be made."""
    given = os.environ.get("G2RPO_DATABASE_URL")
    if given:
        yield given
        return
    from service.embedded import postgres

    server = postgres.start(tmp_path_factory.mktemp("postgres"), durable=False)
    yield server.url
    server.stop()


@pytest.fixture(scope="session")
def broker_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A Valkey or Redis server."""
    given = os.environ.get("G2RPO_BROKER_URL")
    if given:
        yield given
        return
    from service.embedded import valkey

    server = valkey.start(tmp_path_factory.mktemp("valkey"))
    yield server.url
    server.stop()


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
    """A migrated database for one test alone, such as one whose workers outlive a statement."""
    with _database(admin, template) as url:
        yield url


@pytest.fixture
def settings(database_url: str, broker_url: str, tmp_path: Path) -> Settings:
    """Settings on the session's servers, and artifacts in the test's own directory."""
    return Settings(
        database_url=database_url,
        broker_url=broker_url,
        data_dir=tmp_path,
        log_level="CRITICAL",
        max_wait_seconds=60,
        worker_timeout_seconds=60,
    )


@pytest.fixture
def database(settings: Settings) -> Iterator[Database]:
    """The session's database, emptied."""
    connected = connect(settings)
    tables = ", ".join(table.name for table in Base.metadata.tables.values())
    with connected.transaction() as session:
        session.execute(text(f"TRUNCATE {tables} CASCADE"))
    yield connected
    connected.close()
