"""The response cache: a response is computed once while nothing changes, and always shows the committed state."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from fastapi import FastAPI, Response
from fastapi.responses import StreamingResponse
from fastapi.testclient import TestClient
from sqlalchemy import event, func, text, update

from service.api.keys import service as keys
from service.api.keys.schemas import KeySpec
from service.api.routing import declare
from service.app import create_app
from service.auth.principal import Scope
from service.contracts.status import JobStatus
from service.db.models import ApiKey, Run
from service.db.session import Database
from service.http.response_cache import ResponseCache


@contextmanager
def statements(app: FastAPI) -> Iterator[list[str]]:
    """The statements that `app` executes within the block, except key lookups."""
    executed: list[str] = []

    def record(_connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
        if "pg_current_snapshot" not in statement:
            executed.append(statement)

    event.listen(app.state.database.engine, "before_cursor_execute", record)
    yield executed
    event.remove(app.state.database.engine, "before_cursor_execute", record)


def is_computed(app: FastAPI, send: Callable[[], object]) -> bool:
    """Whether the response to a request is computed."""
    with statements(app) as executed:
        send()
    return bool(executed)


def assert_cached(app: FastAPI, send: Callable[[], object], eventually: Callable[[Callable[[], bool]], None]) -> None:
    """Assert that a response comes from the cache.

    The snapshot covers the whole server, so a transaction of another test process may invalidate the first response.
    The requests are therefore repeated.
    """
    eventually(lambda: not is_computed(app, send))


@pytest.fixture
def app(app: FastAPI) -> FastAPI:
    """An application whose cache entries do not expire during a test."""
    app.state.response_cache = ResponseCache(seconds=1000.0)
    return app


@pytest.fixture
def other(database: Database) -> Iterator[TestClient]:
    """A client of another API process."""
    with TestClient(create_app(database.settings), base_url="http://127.0.0.1", client=("127.0.0.1", 50000)) as one:
        yield one


def test_a_response_is_computed_once_while_nothing_changes(
    app: FastAPI, client: TestClient, records: Any, eventually: Any
) -> None:
    path = f"/runs/{records.run().id}"
    responses = [client.get(path)]
    assert_cached(app, lambda: responses.append(client.get(path)), eventually)
    first, second = responses[-2:]
    assert second.json() == first.json()
    assert {**second.headers, "x-request-id": ""} == {**first.headers, "x-request-id": ""}
    assert second.headers["x-request-id"] != first.headers["x-request-id"]


def test_query_and_accept_are_part_of_the_key(client: TestClient, records: Any) -> None:
    run = records.run()
    records.metric(run, "reward/clip_score", [0.1, 0.2])
    path = f"/runs/{run.id}/curves"
    for _ in range(2):
        assert len(client.get(path).json()["curves"][0]["steps"]) == 2
        assert len(client.get(f"{path}?max_points=1").json()["curves"][0]["steps"]) == 1
        assert client.get(path, headers={"Accept": "text/csv"}).text.startswith("name,step")


def test_every_process_shows_the_changes_of_every_other(client: TestClient, other: TestClient, records: Any) -> None:
    path = f"/runs/{records.run().id}"
    for number in range(20):
        writer, reader = (client, other) if number % 2 else (other, client)
        assert writer.patch(path, json={"name": str(number)}).status_code == 200
        assert reader.get(path).json()["name"] == str(number)
        assert writer.get(path).json()["name"] == str(number)


def test_a_commit_invalidates_responses_computed_during_the_transaction(
    database: Database, client: TestClient, records: Any
) -> None:
    run = records.run()
    with database.transaction() as session:
        session.execute(text("SELECT pg_current_xact_id()"))  # the writer's transaction id is older than every snapshot
        assert client.get(f"/runs/{run.id}").json()["notes"] == ""
        session.execute(update(Run).where(Run.id == run.id).values(notes="done"))
        assert client.get(f"/runs/{run.id}").json()["notes"] == ""
    assert client.get(f"/runs/{run.id}").json()["notes"] == "done"


@pytest.mark.parametrize("moment", ["before_cursor_execute", "after_cursor_execute"])
def test_a_change_during_a_request_is_in_the_next_response(
    app: FastAPI, client: TestClient, records: Any, database: Database, moment: str
) -> None:
    run = records.run()
    names = iter(["meanwhile"])

    def rename(_connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
        if "FROM runs" in statement and (name := next(names, None)) is not None:
            with database.transaction() as session:
                session.execute(update(Run).where(Run.id == run.id).values(name=name))

    event.listen(app.state.database.engine, moment, rename)
    client.get(f"/runs/{run.id}")
    assert next(names, None) is None
    assert client.get(f"/runs/{run.id}").json()["name"] == "meanwhile"


def test_a_revoked_key_gets_no_stored_response(
    app: FastAPI, client: TestClient, database: Database, eventually: Any
) -> None:
    with database.transaction() as session:
        secret = keys.add_key(session, KeySpec(name="reader", scopes=(Scope.READ,))).secret
    headers = {"Authorization": f"Bearer {secret}"}
    client.get("/runs", headers=headers)  # records the last use of the key
    assert_cached(app, lambda: client.get("/runs", headers=headers), eventually)
    assert client.get("/runs").status_code == 401
    with database.transaction() as session:
        session.execute(update(ApiKey).values(revoked_at=func.now()))
    assert client.get("/runs", headers=headers).status_code == 401


def test_errors_and_long_polls_are_not_stored(app: FastAPI, client: TestClient, records: Any) -> None:
    drawing = records.generation({"prompts": ["a red circle"], "checkpoints": ["base"]}, JobStatus.SUCCEEDED)
    waiting = {"Prefer": "wait=1"}
    for _ in range(2):
        assert is_computed(app, lambda: client.get("/runs/00000000-0000-7000-8000-000000000000"))
        assert is_computed(app, lambda: client.get(f"/generations/{drawing.id}", headers=waiting))


def test_entries_expire(app: FastAPI, client: TestClient) -> None:
    app.state.response_cache = ResponseCache(seconds=0.0)
    client.get("/catalog")
    assert is_computed(app, lambda: client.get("/catalog"))


def test_a_principal_without_the_scope_gets_no_stored_response(app: FastAPI, client: TestClient) -> None:
    app.get("/cached")(declare(Scope.WRITE, cacheable=True)(lambda: "secret"))
    with app.state.database.transaction() as session:
        reader, writer = (
            {"Authorization": f"Bearer {keys.add_key(session, KeySpec(name=scope, scopes=(scope,))).secret}"}
            for scope in (Scope.READ, Scope.WRITE)
        )
    for _ in range(2):
        assert client.get("/cached", headers=writer).json() == "secret"
        assert client.get("/cached", headers=reader).status_code == 403
        assert client.get("/cached").status_code == 401


def test_a_full_cache_is_emptied() -> None:
    cache = ResponseCache(60.0, max_bytes=3 * 1100)
    entries = [("", str(number), b"", ()) for number in range(5)]
    for key in entries:
        cache.put(key, Response(bytes(50)))
    assert [cache.get(key) is not None for key in entries] == [False] * 3 + [True] * 2


def test_only_successful_responses_of_limited_size_are_stored() -> None:
    cache = ResponseCache(60.0, max_bytes=8000)
    for number, response in enumerate((Response(status_code=304), Response(bytes(1001)), StreamingResponse([b"x"]))):
        cache.put(("", str(number), b"", ()), response)
        assert cache.get(("", str(number), b"", ())) is None
