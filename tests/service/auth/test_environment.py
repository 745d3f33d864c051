"""The first admin key, from G2RPO_ADMIN_KEY."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from pydantic import SecretStr, ValidationError
from sqlalchemy import select, text

from service.app import create_app
from service.core.api_key_format import new_secret
from service.core.settings import Settings
from service.db.models import ApiKey
from service.db.session import Database

Remote = Callable[[FastAPI], TestClient]


def shown(secret: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {secret}"}


@pytest.fixture
def started(settings: Settings, remote: Remote, database: Database) -> Callable[[str], TestClient]:
    """Starts an API process with the given key in its environment."""
    return lambda secret: remote(create_app(settings.model_copy(update={"admin_key": SecretStr(secret)})))


def stored(database: Database) -> list[ApiKey]:
    with database.sessions() as session:
        return list(session.scalars(select(ApiKey).order_by(ApiKey.id)))


def test_the_key_is_accepted_and_required(started: Any, database: Database) -> None:
    secret = new_secret()
    client = started(secret)
    assert client.get("/keys", headers=shown(secret)).status_code == 200
    assert client.get("/runs").status_code == 401
    (row,) = stored(database)
    assert (row.name, row.scopes, row.prefix) == ("environment", ["admin"], secret[:12])
    assert secret not in row.hash


def test_several_processes_store_it_once(settings: Settings, database: Database) -> None:
    apps = [create_app(settings.model_copy(update={"admin_key": SecretStr(SECRET)})) for _ in range(6)]
    with ThreadPoolExecutor(6) as pool:
        list(pool.map(lambda app: app.state.authenticator.start(), apps))
    assert [row.revoked_at for row in stored(database)] == [None]


SECRET = new_secret()


def test_another_value_revokes_the_former_key(started: Any, database: Database) -> None:
    former, present = new_secret(), new_secret()
    old_process = started(former)
    new_process = started(present)
    for process in (old_process, new_process):
        assert process.get("/keys", headers=shown(present)).status_code == 200
        assert process.get("/keys", headers=shown(former)).json()["code"] == "key_revoked"


def test_a_restarted_process_with_the_former_key_does_not_restore_it(started: Any, database: Database) -> None:
    former, present = new_secret(), new_secret()
    for secret in (former, present, former):
        client = started(secret)
    assert client.get("/keys", headers=shown(former)).json()["code"] == "key_revoked"
    assert client.get("/keys", headers=shown(present)).status_code == 200


def test_a_key_that_was_revoked_stays_revoked(started: Any, keys: Any) -> None:
    secret, other = new_secret(), keys.make("admin").secret
    client = started(secret)
    (mine,) = (key for key in client.get("/keys", headers=shown(other)).json()["items"] if key["name"] == "environment")
    assert client.delete(f"/keys/{mine['id']}", headers=shown(other)).status_code == 200
    assert started(secret).get("/keys", headers=shown(secret)).json()["code"] == "key_revoked"


def test_other_keys_stay_valid(started: Any, keys: Any) -> None:
    other = keys.make("read")
    started(new_secret())
    assert started(new_secret()).get("/runs", headers=shown(other.secret)).status_code == 200


def test_the_first_request_stores_the_key_if_the_database_was_away(
    settings: Settings, remote: Remote, database: Database
) -> None:
    with database.engine.begin() as connection:
        connection.execute(text("ALTER TABLE api_keys RENAME TO api_keys_away"))
    secret = new_secret()
    try:
        client = remote(create_app(settings.model_copy(update={"admin_key": SecretStr(secret)})))
        assert client.get("/healthz").status_code == 200
        assert client.get("/runs").status_code == 503
    finally:
        with database.engine.begin() as connection:
            connection.execute(text("ALTER TABLE api_keys_away RENAME TO api_keys"))
    assert client.get("/runs", headers=shown(secret)).status_code == 200


def test_without_a_database_every_request_fails(settings: Settings, remote: Remote) -> None:
    lost = settings.model_copy(
        update={"database_url": "postgresql+psycopg://u@127.0.0.1:1/d", "admin_key": SecretStr(SECRET)}
    )
    client = remote(create_app(lost))
    assert client.get("/runs", headers=shown(SECRET)).status_code == 503
    assert client.get("/healthz").status_code == 200


@pytest.mark.parametrize(
    "wrong", ["", "secret", new_secret()[:-1], "g2k_" + "x" * 38], ids=["empty", "word", "short", "bad checksum"]
)
def test_a_malformed_key_stops_the_start_and_is_not_shown(monkeypatch: Any, wrong: str) -> None:
    monkeypatch.setenv("G2RPO_ADMIN_KEY", wrong)
    with pytest.raises(ValidationError, match="g2rpo keys new") as raised:
        Settings()
    assert not wrong or wrong not in str(raised.value).replace("g2rpo keys new", "")
