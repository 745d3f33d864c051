"""Engines and sessions that connect a process to the database."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Engine, create_engine, event
from sqlalchemy.orm import Session, sessionmaker

from service.core.settings import Settings
from service.db.artifacts import ArtifactStore

_ALIVE = {"keepalives_idle": 10, "keepalives_interval": 5, "keepalives_count": 3, "tcp_user_timeout": 15_000}
"""A connection to an unreachable machine fails after 25 s, instead of after many minutes with libpq's defaults."""


@dataclass(frozen=True)
class Database:
    """The database connections of a process, with its settings and artifact store.

    A worker calls `database = connect()`, then `with database.transaction() as session: ...`. `database.settings`
    has lease times and limits, `database.artifacts` is the artifact store.
    """

    settings: Settings
    engine: Engine
    sessions: sessionmaker[Session]
    readers: sessionmaker[Session]
    """Read-only sessions that open no transaction, which saves two round trips. Each statement sees the data committed
    before it starts, as it would within a transaction. Server-side cursors are not available."""
    artifacts: ArtifactStore

    @contextmanager
    def transaction(self) -> Iterator[Session]:
        """Provide a session that commits at the end of the block, or rolls back if an exception is raised."""
        with self.sessions() as session, session.begin():
            yield session

    def close(self) -> None:
        """Close all connections."""
        self.engine.dispose()


def arguments(settings: Settings) -> dict[str, Any]:
    """Return the libpq connection parameters that are passed in addition to the URL."""
    return {
        "connect_timeout": settings.connect_seconds,
        "application_name": "g2rpo",
        "client_encoding": "utf8",  # otherwise a database without an encoding returns bytes
        **_ALIVE,
    }


def connect(settings: Settings | None = None, idle_seconds: float | None = None) -> Database:
    """Return the database configured in `settings`, or in the environment if None.

    Connections are opened on first use, and reopened after they are lost. The server ends a transaction whose client is
    idle for `idle_seconds` and releases its locks, so that a process that hangs or a machine that has disappeared does
    not block others.
    """
    settings = settings or Settings()
    engine = create_engine(
        settings.database_url,
        hide_parameters=True,  # logs include the statement that failed, but not its values
        pool_size=settings.database_pool,
        max_overflow=0,
        pool_pre_ping=True,
        pool_timeout=settings.connect_seconds,
        connect_args=arguments(settings),
    )
    if idle_seconds is not None:

        def limit(connection: Any, _record: object) -> None:
            connection.execute(f"SET idle_in_transaction_session_timeout = {int(idle_seconds * 1000)}")
            connection.commit()

        event.listen(engine, "connect", limit)
    sessions = sessionmaker(engine, expire_on_commit=False)
    readers = sessionmaker(engine.execution_options(isolation_level="AUTOCOMMIT"), expire_on_commit=False)
    return Database(settings, engine, sessions, readers, ArtifactStore(settings.artifacts_url))
