"""A database with rows goes up to the newest schema, works there, and goes down again.

It loses what the older schema has no place for, and nothing else.
"""

import json
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from alembic.script import ScriptDirectory
from fastapi.testclient import TestClient
from sqlalchemy import Engine, MetaData, create_engine, insert, select

from service.app import create_app
from service.contracts.runs import RunSpec
from service.core.settings import Settings
from service.db import migrate
from service.db.base import Base
from service.db.session import connect
from tests.service.conftest import Records
from tests.service.db.everything import fill

Contents = dict[str, dict[tuple[Any, ...], dict[str, Any]]]
"""By table and primary key, the row."""

STORED = Path(__file__).parents[1] / "contracts" / "stored"
OLD_SPEC: dict[str, Any] = json.loads((STORED / "run_spec_1.json").read_text(encoding="utf-8"))
NEWEST_FIRST = [one.revision for one in ScriptDirectory.from_config(migrate.config()).walk_revisions()]
RUN, GENERATION, CHECKPOINT = (uuid.UUID(int=number) for number in (1, 2, 3))
JOB = {"status": "succeeded", "priority": 0, "attempt": 1}
ROWS: dict[str, dict[str, Any]] = {
    "runs": {
        **JOB,
        "id": RUN,
        "name": "kept",
        "labels": OLD_SPEC["labels"],
        "model": "shapes-flux",
        "algorithm": "g2rpo",
        "requested": {},
        "spec": OLD_SPEC,
        "spec_version": 1,
        "plan": {},
        "seed": 43,
        "last_event": 1,
    },
    "attempts": {"run_id": RUN, "number": 1, "worker": "w", "resumed_at": 0, "events_offset": 0, "log_offset": 0},
    "run_events": {"run_id": RUN, "id": 1, "attempt": 1, "type": "status", "data": {"status": "succeeded"}},
    "metrics": {"run_id": RUN, "name": "loss", "step": 1, "attempt": 1, "value": 0.5},
    "checkpoints": {
        "id": CHECKPOINT,
        "run_id": RUN,
        "attempt": 1,
        "step": 60,
        "kind": "lora",
        "model": "shapes-flux",
        "architecture": "a" * 16,
        "manifest": {"files": []},
        "key": "runs/x",
        "size": 1,
    },
    "generations": {
        **JOB,
        "id": GENERATION,
        "requested": {},
        "spec": {"checkpoints": ["base"], "prompts": ["a red circle"], "num_images": 1, "model": "shapes-flux"},
        "spec_version": 1,
    },
}


@pytest.fixture
def populated(empty_database_url: str) -> Iterator[Engine]:
    """A database of the first schema, with a row in every table that matters."""
    migrate.upgrade(empty_database_url, "0001")
    engine = create_engine(empty_database_url)
    tables = MetaData()
    tables.reflect(engine)
    with engine.begin() as connection:
        for name, row in ROWS.items():
            connection.execute(insert(tables.tables[name]).values(**row))
    yield engine
    engine.dispose()


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
    """The rows of `wide`, in the tables and columns that `narrow` has."""
    columns = {name: next(iter(rows.values()), {}).keys() for name, rows in narrow.items()}
    return {
        name: {key: {column: row[column] for column in columns[name]} for key, row in wide[name].items()}
        for name in narrow
    }


def counts(engine: Engine) -> dict[str, int]:
    found = contents(engine)
    return {name: len(found[name]) for name in ROWS}


def url(engine: Engine) -> str:
    return engine.url.render_as_string(hide_password=False)


def test_up_and_down_and_up_again_keeps_every_row(populated: Engine) -> None:
    for move in (migrate.upgrade, lambda url: migrate.downgrade(url, "0001"), migrate.upgrade):
        move(url(populated))
        assert counts(populated) == dict.fromkeys(ROWS, 1)


def test_what_was_recorded_before_is_shown_after(populated: Engine, settings: Settings) -> None:
    migrate.upgrade(url(populated))
    app = create_app(settings.model_copy(update={"database_url": url(populated)}))
    with TestClient(app, base_url="http://127.0.0.1", client=("127.0.0.1", 50000)) as client:
        run = client.get(f"/runs/{RUN}").json()
        assert (run["spec"], run["max_steps"], run["losses"]) == (OLD_SPEC, 60, 0)
        assert client.get(f"/runs/{RUN}/attempts").json()["items"][0]["max_steps"] == 60
        assert client.get(f"/runs/{RUN}/curves").json()["curves"][0]["values"] == [0.5]
        assert client.get(f"/checkpoints/{CHECKPOINT}").json()["deleted_at"] is None
        assert client.get(f"/generations/{GENERATION}").json()["total_images"] == 1
        assert client.post(f"/runs/{RUN}/resume", json={"max_steps": 70}).json()["status"] == "queued"
        clone = client.post(f"/runs/{RUN}/clone", json={"training": {"max_steps": 5}}).json()
        assert clone["spec"]["prompts"]["items"] == OLD_SPEC["prompts"]["items"]


def test_a_paused_run_goes_down_as_cancelled(populated: Engine) -> None:
    migrate.upgrade(url(populated))
    with populated.begin() as connection:
        connection.exec_driver_sql("UPDATE runs SET status = 'paused'")
    migrate.downgrade(url(populated), "0001")
    with populated.connect() as connection:
        assert connection.exec_driver_sql("SELECT status FROM runs").scalar() == "cancelled"


def test_rows_of_every_table_go_down_revision_by_revision_and_up_again(everything: Engine) -> None:
    full = contents(everything)
    assert full.keys() == Base.metadata.tables.keys()
    assert [name for name, rows in full.items() if not rows] == [], "tests.service.db.everything fills these tables"
    for revision in NEWEST_FIRST[1:-1]:
        migrate.downgrade(url(everything), revision)
        assert (left := contents(everything)) == narrowed(full, left)

    migrate.downgrade(url(everything), "0001")
    first = contents(everything)
    assert first["checkpoints"].keys() == {
        key for key, row in full["checkpoints"].items() if row["run_id"] and not row["deleted_at"]
    }
    assert first["runs"].keys() == full["runs"].keys()
    rest = {name: rows for name, rows in first.items() if name not in ("checkpoints", "runs")}
    assert rest == narrowed(full, rest)

    migrate.upgrade(url(everything))
    assert narrowed(contents(everything), first) == first

    migrate.downgrade(url(everything), "base")
    assert contents(everything) == {}
    migrate.upgrade(url(everything))
    assert {name for name, rows in contents(everything).items() if rows} == {"deployments"}


def test_checkpoints_that_the_first_schema_cannot_tell_apart_go(everything: Engine) -> None:
    whole = next(key for (key,), row in contents(everything)["checkpoints"].items() if row["best_value"])
    migrate.downgrade(url(everything), "0001")
    runs = contents(everything)["runs"].values()
    assert {row["name"]: (row["status"], row["start_from"], row["ended_at"] is not None) for row in runs} == {
        "first": ("succeeded", None, True),
        "from whole": ("succeeded", whole, True),
        "from retired": ("succeeded", None, True),
        "from imported": ("cancelled", None, True),
        "from imported, and saved since": ("interrupted", None, False),
        "paused": ("cancelled", None, True),
    }


@pytest.mark.parametrize("file", sorted(STORED.glob("run_spec_*.json")), ids=lambda file: file.stem)
def test_every_spec_ever_stored_can_still_be_run(file: Path) -> None:
    stored = json.loads(file.read_text(encoding="utf-8"))
    spec = RunSpec.model_validate(stored)
    assert spec.training.max_steps == stored["training"]["max_steps"]
    assert RunSpec.model_validate(spec.model_dump(mode="json")) == spec
