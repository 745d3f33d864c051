"""Run Alembic migrations on the connection given by `service.db.migrate`, or on the URL in the settings."""

from alembic import context
from sqlalchemy import Connection, create_engine

import service.db.models  # noqa: F401 - registers every table
from service.core.settings import Settings
from service.db.base import Base


def run(connection: Connection) -> None:
    """Run the migrations in one transaction."""
    context.configure(connection=connection, target_metadata=Base.metadata, compare_server_default=True)
    with context.begin_transaction():
        context.run_migrations()


given = context.config.attributes.get("connection")
if given is not None:
    run(given)
elif context.is_offline_mode():
    context.configure(url=Settings().database_url, target_metadata=Base.metadata, literal_binds=True)
    with context.begin_transaction():
        context.run_migrations()
else:
    engine = create_engine(Settings().database_url)
    with engine.connect() as opened:
        run(opened)
    engine.dispose()
