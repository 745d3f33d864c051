"""Keys in every state, and clients on another machine."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from sqlalchemy import func, text, update

from service.api.keys import service
from service.api.keys.schemas import KeySpec
from service.auth.principal import Scope
from service.core.api_key_format import new_secret
from service.db.base import Base
from service.db.models import ApiKey
from service.db.session import Database


@dataclass
class Keys:
    """Creates keys in the database."""

    database: Database

    def make(self, scope: str = "admin", **columns: Any) -> service.CreatedKey:
        """A valid key, unless `columns` change it."""
        with self.database.transaction() as session:
            created = service.add_key(session, KeySpec(name=f"{scope} key", scopes=(Scope(scope),)))
            if columns:
                session.execute(update(ApiKey).where(ApiKey.id == created.row.id).values(**columns))
        return created

    def presented(self, state: str, scope: str = "admin") -> dict[str, str]:
        """The header with a key in the given state."""
        if state == "missing":
            return {}
        secrets: dict[str, Callable[[], str]] = {
            "valid": lambda: self.make(scope).secret,
            "revoked": lambda: self.make(scope, revoked_at=func.now()).secret,
            "expired": lambda: self.make(scope, expires_at=func.now()).secret,
            "unknown": new_secret,
            "malformed": lambda: mistyped(new_secret()),
        }
        return shown(secrets[state]())


def mistyped(secret: str) -> str:
    """The key with one character changed."""
    return secret[:20] + ("a" if secret[20] != "a" else "b") + secret[21:]


def shown(secret: str) -> dict[str, str]:
    """The header with a key."""
    return {"Authorization": f"Bearer {secret}"}


@pytest.fixture
def keys(database: Database) -> Keys:
    """Creates keys."""
    return Keys(database)


@pytest.fixture
def remote() -> Iterator[Callable[[FastAPI], TestClient]]:
    """Creates clients on another machine, which use the host name of the service."""
    with ExitStack() as stack:
        yield lambda app: stack.enter_context(
            TestClient(
                app,
                base_url="http://g2rpo.example",
                client=("203.0.113.9", 4000),
                raise_server_exceptions=False,
                follow_redirects=False,
            )
        )


@pytest.fixture
def away(app: FastAPI, remote: Callable[[FastAPI], TestClient]) -> TestClient:
    """A client on another machine."""
    return remote(app)


@pytest.fixture
def contents(database: Database) -> Callable[[], dict[str, str | None]]:
    """Computes a digest of every table, except for the last-use times of keys."""

    def digests() -> dict[str, str | None]:
        with database.sessions() as session:
            return {name: session.scalar(text(query)) for name, query in queries.items()}

    queries = {}
    for table in Base.metadata.tables.values():
        columns = ", ".join(f'"{column.name}"' for column in table.columns if column.name != "last_used_at")
        rows = f"SELECT row({columns})::text AS line FROM {table.name}"
        queries[table.name] = f"SELECT md5(string_agg(line, '|' ORDER BY line)) FROM ({rows}) AS rows"
    return digests
