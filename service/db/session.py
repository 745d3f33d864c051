"""Engines and sessions: the one way a process reaches the database."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Engine, create_engine, event
from sqlalchemy.orm import Session, sessionmaker

from service.core.settings import Settings
from service.db.artifacts import ArtifactStore

_ALIVE = {"keepalives_idle": 10, "keepalives_interval": 5, "keepalives_count": 3, "tcp_user_timeout": 15_000}
"""A connection whose other end vanished, with a machine or a router, is missed after 25 s; libpq waits many minutes."""


@dataclass(frozen=True)
class Database:
    """A process's connections, with the settings they were made from.

    A worker writes `database = connect()`, then `with database.transaction() as session: ...`; its lease times, limits
    and artifact store come from `database.settings` and `database.artifacts`.
    """

    settings: Settings
    engine: Engine
    sessions: sessionmaker[Session]
    readers: sessionmaker[Session]
    """Sessions that only read: without a transaction, whose begin and end would be two more round trips. Each statement
    sees what was committed when it began, as it would within one; a server-side cursor they cannot have."""
    artifacts: ArtifactStore

    @contextmanager
    def transaction(self) -> Iterator[Session]:
        """A session whose work is committed at the end, or rolled back by an exception."""
        with self.sessions() as session, session.begin():
            yield session

    def close(self) -> None:
        """Give up every connection."""
        self.engine.dispose()


def arguments(settings: Settings) -> dict[str, Any]:
    """What every connection is made with, beside its address."""
    return {
        "connect_timeout": settings.connect_seconds,
        "application_name": "g2rpo",
        "client_encoding": "utf8",  # a database without an encoding would answer in bytes
        **_ALIVE,
    }


def connect(settings: Settings | None = None, idle_seconds: float | None = None) -> Database:
    """The database of `settings`, else of the environment. Connects at first use, and again after a loss.

    A transaction whose client says nothing for `idle_seconds` is ended by the database, which lets go of what it had
    locked: a process that hangs, or a machine that vanished, keeps nobody else waiting.
    """
    settings = settings or Settings()
    engine = create_engine(
        settings.database_url,
        hide_parameters=True,  # errors go into logs: they say the statement, not whose values it had
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
