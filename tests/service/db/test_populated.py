"""Migrations keep the rows of every table."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from alembic.script import ScriptDirectory
from sqlalchemy import Engine, MetaData, create_engine, select

from service.contracts.runs import RunSpec
from service.core.settings import Settings
from service.db import migrate
from service.db.base import Base
from service.db.session import connect
from tests.service.db.everything import fill
from tests.service.records import Records

Contents = dict[str, dict[tuple[Any, ...], dict[str, Any]]]
"""Rows by table and primary key."""

STORED = Path(__file__).parents[1] / "contracts" / "stored"
NEWEST_FIRST = [one.revision for one in ScriptDirectory.from_config(migrate.config()).walk_revisions()]


@pytest.fixture
def everything(new_database_url: str, settings: Settings, tmp_path: Path) -> Iterator[Engine]:
    """A database of the newest schema, with rows in every table."""
    database = connect(settings.model_copy(update={"database_url": new_database_url}))
    fill(Records(database, tmp_path))
    yield database.engine
    database.close()


def contents(engine: Engine) -> Contents:
    tables = MetaData()
    tables.reflect(engine)
    with engine.connect() as connection:
        return {
            name: {
                tuple(row[column.name] for column in table.primary_key): dict(row)
                for row in connection.execute(select(table)).mappings()
            }
            for name, table in tables.tables.items()
            if name != "alembic_version"
        }


def narrowed(wide: Contents, narrow: Contents) -> Contents:
    """The rows of `wide`, restricted to the tables and columns of `narrow`."""
    columns = {name: next(iter(rows.values()), {}).keys() for name, rows in narrow.items()}
    return {
        name: {key: {column: row[column] for column in columns[name]} for key, row in wide[name].items()}
        for name in narrow
    }


def url(engine: Engine) -> str:
    return engine.url.render_as_string(hide_password=False)


def test_rows_of_every_table_go_down_revision_by_revision_and_up_again(everything: Engine) -> None:
    full = contents(everything)
    assert full.keys() == Base.metadata.tables.keys()
    assert [name for name, rows in full.items() if not rows] == [], "tests.service.db.everything fills these tables"
    for revision in NEWEST_FIRST[1:]:
        migrate.downgrade(url(everything), revision)
        assert (left := contents(everything)) == narrowed(full, left)
    first = contents(everything)
    migrate.upgrade(url(everything))
    assert narrowed(contents(everything), first) == first

    migrate.downgrade(url(everything), "base")
    assert contents(everything) == {}
    migrate.upgrade(url(everything))
    assert {name for name, rows in contents(everything).items() if rows} == {"deployments"}


def test_a_fresh_schema_has_the_row_that_identifies_the_deployment(empty_database_url: str) -> None:
    migrate.upgrade(empty_database_url)
    engine = create_engine(empty_database_url)
    assert len(contents(engine)["deployments"]) == 1
    engine.dispose()


@pytest.mark.parametrize("file", sorted(STORED.glob("run_spec_*.json")), ids=lambda file: file.stem)
def test_a_stored_run_spec_of_each_version_is_readable(file: Path) -> None:
    stored = json.loads(file.read_text(encoding="utf-8"))
    spec = RunSpec.model_validate(stored)
    assert spec.training.max_steps == stored["training"]["max_steps"]
    assert RunSpec.model_validate(spec.model_dump(mode="json")) == spec
