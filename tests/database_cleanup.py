"""Deletes all rows of a test database."""

from sqlalchemy import text

import service.db.models  # noqa: F401 - the tables
from service.db.base import Base
from service.db.session import Database


def empty(database: Database) -> None:
    """Delete all rows of all tables.

    One DELETE of all tables in one statement costs a tenth of TRUNCATE, which replaces every file of every table and
    index. The lock waits for open transactions of an earlier test.
    """
    tables = list(Base.metadata.tables)
    deletions = ", ".join(f"deletion_{number} AS (DELETE FROM {table})" for number, table in enumerate(tables))
    with database.transaction() as session:
        session.execute(text(f"LOCK TABLE {', '.join(tables)} IN SHARE ROW EXCLUSIVE MODE"))
        session.execute(text(f"WITH {deletions} SELECT"))
