"""Migrate a database to the newest schema, and determine its current and newest revision.

`python -m service.db.migrate` upgrades the database configured in the settings.
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
"""Key of the advisory lock that serializes migrations."""


def config(connection: Connection | None = None) -> Config:
    """Return the Alembic configuration for the service's migrations."""
    config = Config()
    config.set_main_option("script_location", str(Path(migrations.__file__).parent).replace("%", "%%"))
    config.attributes["connection"] = connection
    return config


def upgrade(url: str, revision: str = "head") -> None:
    """Upgrade the database at `url` to `revision`. Concurrent upgrades wait for each other."""
    _locked(url, lambda connection: command.upgrade(config(connection), revision))


def downgrade(url: str, revision: str) -> None:
    """Downgrade the database at `url` to `revision`, where `base` is the empty schema."""
    _locked(url, lambda connection: command.downgrade(config(connection), revision))


def current(connection: Connection) -> str | None:
    """Return the revision of the database, or None if it has no schema."""
    return MigrationContext.configure(connection).get_current_revision()


@cache
def head() -> str | None:
    """Return the newest revision."""
    return ScriptDirectory.from_config(config()).get_current_head()


@cache
def knows(revision: str) -> bool:
    """Whether this version of the service includes the migration `revision`."""
    return any(script.revision == revision for script in ScriptDirectory.from_config(config()).walk_revisions())


def _locked(url: str, migrate: Callable[[Connection], None]) -> None:
    engine = create_engine(url)
    try:
        with engine.begin() as connection:
            connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _LOCK})
            migrate(connection)
    finally:
        engine.dispose()


if __name__ == "__main__":
    upgrade(Settings().database_url)
