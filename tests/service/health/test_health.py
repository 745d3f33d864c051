"""`/`, `/healthz`, `/readyz`."""

from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from service.app import create_app
from service.db import migrate
from service.db.session import Database
from service.settings import Settings


def readiness(settings: Settings) -> tuple[int, dict[str, Any]]:
    with TestClient(create_app(settings), base_url="http://127.0.0.1", client=("127.0.0.1", 50000)) as client:
        response = client.get("/readyz")
        return response.status_code, response.json()


def test_the_index_leads_to_the_documentation(client: TestClient) -> None:
    assert client.get(client.get("/").json()["docs"]).status_code == 200


def test_a_service_with_all_it_needs_is_ready(client: TestClient) -> None:
    response = client.get("/readyz")
    assert (response.status_code, response.json()["status"]) == (200, "ready")
    assert [check["name"] for check in response.json()["checks"]] == ["database", "schema", "broker", "storage"]


@pytest.mark.parametrize(
    ("change", "names", "hint"),
    [
        ({"database_url": "postgresql+psycopg://u:secret@127.0.0.1:1/d"}, {"database", "schema"}, "G2RPO_DATABASE_URL"),
        ({"broker_url": "redis://127.0.0.1:1/0"}, {"broker"}, "G2RPO_BROKER_URL"),
        ({"storage_url": "file:///dev/null/store"}, {"storage"}, "G2RPO_STORAGE_URL"),
    ],
)
def test_what_is_missing_is_named_with_how_to_mend_it(
    database: Database, change: dict[str, str], names: set[str], hint: str
) -> None:
    status, problem = readiness(database.settings.model_copy(update=change))
    assert (status, problem["code"]) == (503, "not_ready")
    failed = {check["name"]: check for check in problem["checks"] if not check["ok"]}
    assert failed.keys() == names
    assert any(hint in check["hint"] for check in failed.values())
    assert "secret" not in str(problem)


def test_an_old_schema_is_named(settings: Settings, empty_database_url: str, tmp_path: Path) -> None:
    old = settings.model_copy(update={"database_url": empty_database_url})
    status, problem = readiness(old)
    assert (status, "the schema is at nothing" in problem["detail"]) == (503, True)
    migrate.upgrade(empty_database_url)
    assert readiness(old)[0] == 200
