"""Bringing a database to the newest schema, and asking whether it is there.

`python -m service.db.migrate` upgrades the database that the settings name.
"""

from collections.abc import Callable
from functools import cache
from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, create_engine, text

import migrations
from service.core.settings import Settings

_LOCK = 0x6732727043
"""Key of the advisory lock under which one process at a time migrates."""


def config(connection: Connection | None = None) -> Config:
    """Alembic's configuration for the migrations of this package."""
    made = Config()
    made.set_main_option("script_location", str(Path(migrations.__file__).parent).replace("%", "%%"))
    made.attributes["connection"] = connection
    return made


def upgrade(url: str, revision: str = "head") -> None:
    """Upgrade the database at `url`; processes that do so at once wait for each other."""
    _locked(url, lambda connection: command.upgrade(config(connection), revision))


def downgrade(url: str, revision: str) -> None:
    """Take the database at `url` back to `revision`, `base` for empty."""
    _locked(url, lambda connection: command.downgrade(config(connection), revision))


def current(connection: Connection) -> str | None:
    """The revision the database has, None when it has no schema."""
    return MigrationContext.configure(connection).get_current_revision()


@cache
def head() -> str | None:
    """The newest revision."""
    return ScriptDirectory.from_config(config()).get_current_head()


def knows(revision: str) -> bool:
    """Whether this version of the service has the migration `revision`."""
    return revision in _revisions()


@cache
def _revisions() -> frozenset[str]:
    return frozenset(script.revision for script in ScriptDirectory.from_config(config()).walk_revisions())


def _locked(url: str, work: Callable[[Connection], None]) -> None:
    engine = create_engine(url)
    try:
        with engine.begin() as connection:
            connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _LOCK})
            work(connection)
    finally:
        engine.dispose()


if __name__ == "__main__":
    upgrade(Settings().database_url)
