"""The routes `/`, `/healthz` and `/readyz`."""

import uuid
from datetime import timedelta
from typing import Any

import pytest
from fastapi.testclient import TestClient
from sqlalchemy import Engine, func, text, update

from service.app import create_app
from service.core.settings import Settings
from service.db import migrate
from service.db.models import Worker
from service.db.session import Database, connect


def readiness(settings: Settings) -> tuple[int, dict[str, Any]]:
    with TestClient(create_app(settings), base_url="http://127.0.0.1", client=("127.0.0.1", 50000)) as client:
        response = client.get("/readyz")
        return response.status_code, response.json()


def test_the_index_links_to_the_documentation(client: TestClient) -> None:
    assert client.get(client.get("/").json()["docs"]).status_code == 200


def test_a_service_with_all_dependencies_is_ready(client: TestClient) -> None:
    response = client.get("/readyz")
    assert (response.status_code, response.json()["status"]) == (200, "ready")
    names = [check["name"] for check in response.json()["checks"]]
    assert names == ["database", "schema", "broker", "storage", "catalog", "workers"]


@pytest.mark.parametrize(
    ("change", "names", "hint"),
    [
        ({"database_url": "postgresql+psycopg://u:secret@127.0.0.1:1/d"}, {"database", "schema"}, "G2RPO_DATABASE_URL"),
        ({"broker_url": "redis://127.0.0.1:1/0"}, {"broker"}, "G2RPO_BROKER_URL"),
        ({"storage_url": "file:///dev/null/store"}, {"storage"}, "G2RPO_STORAGE_URL"),
    ],
)
def test_missing_dependencies_are_named_with_a_fix(
    database: Database, change: dict[str, str], names: set[str], hint: str
) -> None:
    status, problem = readiness(database.settings.model_copy(update=change))
    assert (status, problem["code"]) == (503, "not_ready")
    failed = {check["name"]: check for check in problem["checks"] if not check["ok"]}
    assert failed.keys() == names
    assert any(hint in check["hint"] for check in failed.values())
    assert "secret" not in str(problem)
    assert not any(name in problem["detail"] for name in {"schema", "workers"} - names | {"not checked"})


def test_an_invalid_broker_url_has_a_hint_with_the_format(database: Database) -> None:
    _, problem = readiness(database.settings.model_copy(update={"broker_url": "http://user:secret@127.0.0.1"}))
    assert "redis://" in next(check["hint"] for check in problem["checks"] if check["name"] == "broker")
    assert "secret" not in str(problem)


def test_a_nearly_full_disk_is_reported_with_free_and_required_bytes(database: Database) -> None:
    status, problem = readiness(database.settings.model_copy(update={"min_free_bytes": 2**60}))
    assert status == 503
    assert "storage: disk nearly full" in problem["detail"]
    [storage] = [check for check in problem["checks"] if not check["ok"]]
    assert "G2RPO_MIN_FREE_BYTES" in storage["hint"] and "GiB left in file://" in storage["detail"]


def test_a_database_in_another_encoding_is_a_problem(settings: Settings, admin: Engine) -> None:
    name = f"g2rpo_test_{uuid.uuid4().hex}"
    with admin.connect() as connection:
        connection.execute(text(f"CREATE DATABASE {name} ENCODING 'SQL_ASCII' LOCALE 'C' TEMPLATE template0"))
    url = admin.url.set(database=name).render_as_string(hide_password=False)
    _, problem = readiness(settings.model_copy(update={"database_url": url}))
    assert "database: the database has the encoding SQL_ASCII" in problem["detail"]
    with admin.connect() as connection:
        connection.execute(text(f"DROP DATABASE {name} WITH (FORCE)"))


def test_a_newer_schema_has_no_migration_hint(settings: Settings, new_database_url: str) -> None:
    newer = settings.model_copy(update={"database_url": new_database_url})
    database = connect(newer)
    with database.transaction() as session:
        session.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    database.close()
    _, problem = readiness(newer)
    [schema] = [check for check in problem["checks"] if not check["ok"]]
    assert "9999" in schema["detail"] and "newer version" in schema["hint"] and "migrate`" not in schema["hint"]


def test_without_workers_it_is_ready_and_lists_queues_without_workers(client: TestClient, database: Database) -> None:
    def workers() -> dict[str, Any]:
        response = client.get("/readyz")
        assert response.status_code == 200
        found: dict[str, Any] = response.json()["checks"][-1]
        return found

    missing = workers()
    assert missing["ok"] and "0 for train, 0 for generate" in missing["detail"]
    assert "--queues train" in missing["hint"] and "--queues generate" in missing["hint"]
    with database.transaction() as session:
        session.add(Worker(name="a", queue="train", device="cpu"))
        session.add(Worker(name="c", queue="evaluate", device="cpu"))
        session.add(Worker(name="b", queue="generate", device="cpu", heartbeat_at=func.now() - timedelta(hours=1)))
    assert "--queues train" not in workers()["hint"]
    with database.transaction() as session:
        session.execute(update(Worker).values(heartbeat_at=func.now()))
    assert workers() == {
        "name": "workers",
        "ok": True,
        "detail": "1 for train, 1 for generate, 1 for evaluate",
        "hint": "",
    }


def test_a_missing_schema_is_named(settings: Settings, empty_database_url: str) -> None:
    empty = settings.model_copy(update={"database_url": empty_database_url})
    status, problem = readiness(empty)
    assert status == 503
    assert f"the schema has revision none, but this service needs {migrate.head()}" in problem["detail"]
    assert any("service.db.migrate" in check["hint"] for check in problem["checks"] if not check["ok"])
    migrate.upgrade(empty_database_url)
    assert readiness(empty)[0] == 200
