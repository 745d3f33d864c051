"""`g2rpo keys`: keys created directly in the database."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient
from typer.testing import CliRunner, Result

from service.cli import app as commands
from service.core.api_key_format import check_format


@pytest.fixture
def g2rpo(database: Any) -> Callable[..., Result]:
    """Runs a command on the test's database."""
    url = database.engine.url.render_as_string(hide_password=False)
    environment = {"G2RPO_DATABASE_URL": url, "COLUMNS": "300", "TERM": "dumb"}
    return lambda *words: CliRunner().invoke(commands, ["keys", *words], env=environment)


def shown(secret: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {secret}"}


def test_create_prints_only_a_valid_key(g2rpo: Any, away: TestClient) -> None:
    done = g2rpo("create", "the lab", "--scope", "write", "--max-open-jobs", "1", "--expires-days", "1")
    assert done.exit_code == 0, done.output
    secret = done.stdout.strip()
    check_format(secret)
    assert "needs a key from now on" in done.stderr
    assert secret not in done.stderr
    answers = [away.post("/runs", json={}, headers=shown(secret)).status_code for _ in range(2)]
    assert answers == [202, 429]


def test_list_and_revoke(g2rpo: Any, away: TestClient, keys: Any) -> None:
    created = keys.make("admin")
    assert "active" in g2rpo("list").stdout
    assert f"{created.row.prefix} (admin key) is revoked" in g2rpo("revoke", str(created.row.id)).stdout
    listed = g2rpo("list").stdout
    assert "revoked" in listed and str(created.row.id) in listed
    assert created.secret not in listed
    assert away.get("/runs", headers=shown(created.secret)).json()["code"] == "key_revoked"


def test_new_prints_a_key_and_stores_nothing(g2rpo: Any, client: TestClient) -> None:
    check_format(g2rpo("new").stdout.strip())
    assert client.get("/runs").status_code == 200


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("create", "environment", "--scope", "read"), "is reserved for the key in G2RPO_ADMIN_KEY"),
        (("revoke", "00000000-0000-0000-0000-000000000001"), "not found"),
    ],
)
def test_an_error_is_one_line(g2rpo: Any, words: tuple[str, ...], message: str) -> None:
    done = g2rpo(*words)
    assert done.exit_code == 2
    assert message in done.stderr and "Traceback" not in done.output


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("postgresql://u:geheim@127.0.0.1:1/d", "The database cannot be reached"),
        ("postgresql://u:geheim@127.0.0.1:x/d", "the URL cannot be read"),
    ],
)
def test_an_unavailable_database_is_one_line_without_its_password(url: str, message: str) -> None:
    done = CliRunner().invoke(commands, ["keys", "list"], env={"G2RPO_DATABASE_URL": url, "COLUMNS": "300"})
    assert done.exit_code == 2
    assert message in done.stderr and "geheim" not in done.output


def test_a_database_without_schema_has_a_hint(empty_database_url: str) -> None:
    done = CliRunner().invoke(commands, ["keys", "list"], env={"G2RPO_DATABASE_URL": empty_database_url})
    assert done.exit_code == 2
    assert "service.db.migrate" in done.stderr


def test_without_a_running_service_the_error_explains_the_url_option(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("G2RPO_DATABASE_URL", raising=False)
    done = CliRunner().invoke(commands, ["keys", "list", "--data", str(tmp_path)], env={"COLUMNS": "300"})
    assert done.exit_code == 2
    assert "set G2RPO_DATABASE_URL" in done.stderr
