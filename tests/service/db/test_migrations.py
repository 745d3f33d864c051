"""Upgrades and downgrades of the schema."""

import io
from concurrent.futures import ThreadPoolExecutor

import pytest
from alembic import command
from sqlalchemy import create_engine, inspect

from service.db import migrate
from service.db.base import Base


def tables(url: str) -> set[str]:
    engine = create_engine(url)
    found = set(inspect(engine).get_table_names())
    engine.dispose()
    return found


def test_upgrade_of_an_empty_database_creates_every_table(empty_database_url: str) -> None:
    migrate.upgrade(empty_database_url)
    assert tables(empty_database_url) == {*Base.metadata.tables, "alembic_version"}


def test_the_migrated_schema_matches_the_models(empty_database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    migrate.upgrade(empty_database_url)
    monkeypatch.setenv("G2RPO_DATABASE_URL", empty_database_url)
    command.check(migrate.config())


def test_downgrade_to_base_removes_every_table(empty_database_url: str) -> None:
    migrate.upgrade(empty_database_url)
    migrate.downgrade(empty_database_url, "base")
    assert tables(empty_database_url) == {"alembic_version"}
    migrate.upgrade(empty_database_url)


def test_concurrent_upgrades_wait_for_each_other(empty_database_url: str) -> None:
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(migrate.upgrade, [empty_database_url] * 2))
    engine = create_engine(empty_database_url)
    with engine.connect() as connection:
        assert migrate.current(connection) == migrate.head()
    engine.dispose()


def test_the_schema_can_be_written_as_sql(empty_database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("G2RPO_DATABASE_URL", empty_database_url)
    written = migrate.config()
    written.output_buffer = io.StringIO()
    command.upgrade(written, "head", sql=True)
    assert "CREATE TABLE runs" in written.output_buffer.getvalue()
