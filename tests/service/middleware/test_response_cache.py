"""Kept answers: one is made once while nothing changes, and nobody is told less than the database would tell."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from sqlalchemy import event, func, text, update

from service.api.keys import service as keys
from service.api.keys.schemas import KeySpec
from service.app import create_app
from service.auth.principal import Scope
from service.contracts.status import JobStatus
from service.db.models import ApiKey, Attempt, LogChunk, Run
from service.db.session import Database
from service.middleware import response_cache


@contextmanager
def statements(app: FastAPI) -> Iterator[list[str]]:
    """What `app` asks the database meanwhile, beside who asks."""
    asked: list[str] = []

    def note(_connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
        asked.append(statement)

    event.listen(app.state.database.engine, "before_cursor_execute", note)
    yield asked
    event.remove(app.state.database.engine, "before_cursor_execute", note)


def made(app: FastAPI, ask: Callable[[], object]) -> bool:
    """Whether an answer is made anew."""
    with statements(app) as asked:
        ask()
    return bool(asked)


def is_kept(app: FastAPI, ask: Callable[[], object], eventually: Callable[[Callable[[], bool]], None]) -> None:
    """Assert that an answer is not made anew.

    A snapshot belongs to the whole server, so a transaction of another test process between two requests has the second
    answer made anew; the requests are repeated until there is none.
    """
    eventually(lambda: not made(app, ask))


@pytest.fixture(autouse=True)
def unhurried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("service.middleware.response_cache._SECONDS", 1000.0)


@pytest.fixture
def other(database: Database) -> Iterator[TestClient]:
    """A client of another API process."""
    with TestClient(create_app(database.settings), base_url="http://127.0.0.1", client=("127.0.0.1", 50000)) as one:
        yield one


def test_an_answer_is_made_once_while_nothing_changes(
    app: FastAPI, client: TestClient, records: Any, eventually: Any
) -> None:
    path = f"/runs/{records.run().id}"
    answers = [client.get(path)]
    is_kept(app, lambda: answers.append(client.get(path)), eventually)
    first, second = answers[-2:]
    assert second.json() == first.json()
    assert {**second.headers, "x-request-id": ""} == {**first.headers, "x-request-id": ""}
    assert second.headers["x-request-id"] != first.headers["x-request-id"]


def test_other_questions_have_other_answers(client: TestClient, records: Any) -> None:
    run = records.run()
    records.metric(run, "reward/clip_score", [0.1, 0.2])
    path = f"/runs/{run.id}/curves"
    for _ in range(2):
        assert len(client.get(path).json()["curves"][0]["steps"]) == 2
        assert len(client.get(f"{path}?max_points=1").json()["curves"][0]["steps"]) == 1
        assert client.get(path, headers={"Accept": "text/csv"}).text.startswith("name,step")


def test_everybody_reads_what_anybody_wrote(client: TestClient, other: TestClient, records: Any) -> None:
    path = f"/runs/{records.run().id}"
    for number in range(20):
        writer, reader = (client, other) if number % 2 else (other, client)
        assert writer.patch(path, json={"name": str(number)}).status_code == 200
        assert reader.get(path).json()["name"] == str(number)
        assert writer.get(path).json()["name"] == str(number)


def test_what_is_not_yet_committed_is_not_kept_from_anybody(
    database: Database, client: TestClient, records: Any
) -> None:
    run = records.run()
    with database.transaction() as session:
        session.execute(text("SELECT pg_current_xact_id()"))  # the writer's number is older than every look
        assert client.get(f"/runs/{run.id}").json()["notes"] == ""
        session.execute(update(Run).where(Run.id == run.id).values(notes="done"))
        assert client.get(f"/runs/{run.id}").json()["notes"] == ""
    assert client.get(f"/runs/{run.id}").json()["notes"] == "done"


@pytest.mark.parametrize("moment", ["before_cursor_execute", "after_cursor_execute"])
def test_a_change_while_an_answer_is_made_is_in_the_next_one(
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


def test_a_revoked_key_is_refused_what_is_kept(
    app: FastAPI, client: TestClient, database: Database, eventually: Any
) -> None:
    with database.transaction() as session:
        secret = keys.make(session, KeySpec(name="reader", scopes=(Scope.READ,))).secret
    shown = {"Authorization": f"Bearer {secret}"}
    client.get("/runs", headers=shown)  # notes that the key was used
    is_kept(app, lambda: client.get("/runs", headers=shown), eventually)
    assert client.get("/runs").status_code == 401
    with database.transaction() as session:
        session.execute(update(ApiKey).values(revoked_at=func.now()))
    assert client.get("/runs", headers=shown).status_code == 401


def test_errors_and_answers_that_wait_are_not_kept(app: FastAPI, client: TestClient, records: Any) -> None:
    drawing = records.generation({"prompts": ["a red circle"], "checkpoints": ["base"]}, JobStatus.SUCCEEDED)
    waiting = {"Prefer": "wait=1"}
    for _ in range(2):
        assert made(app, lambda: client.get("/runs/00000000-0000-7000-8000-000000000000"))
        assert made(app, lambda: client.get(f"/generations/{drawing.id}", headers=waiting))


def test_what_the_clock_changes_is_kept_for_a_moment_only(
    app: FastAPI, client: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("service.middleware.response_cache._SECONDS", 0.0)
    client.get("/catalog")
    assert made(app, lambda: client.get("/catalog"))


class TestEnded:
    """What an ended run shows of itself is made again when its own rows have changed, and not before."""

    @pytest.fixture
    def run(self, records: Any) -> Run:
        run = records.run(JobStatus.SUCCEEDED)
        records.attempts(run, 2)
        records.metric(run, "reward/clip_score", [0.1, 0.2])
        return run

    @pytest.mark.parametrize("path", ["", "/curves", "/rewards", "/samples", "/logs", "/attempts"])
    def test_what_others_do_changes_nothing(
        self, app: FastAPI, client: TestClient, records: Any, run: Run, path: str
    ) -> None:
        first = client.get(f"/runs/{run.id}{path}")
        other = records.run(JobStatus.RUNNING)
        records.metric(other, "reward/clip_score", [0.3])
        with statements(app) as asked:
            assert client.get(f"/runs/{run.id}{path}").json() == first.json()
        assert asked == []

    def test_a_change_of_its_row_is_told(self, client: TestClient, other: TestClient, run: Run) -> None:
        for number in range(5):
            assert client.get(f"/runs/{run.id}").json()["notes"] == ("" if number == 0 else str(number - 1))
            assert other.patch(f"/runs/{run.id}", json={"notes": str(number)}).status_code == 200

    @pytest.mark.parametrize("attempt", [1, 2])
    def test_what_is_read_late_of_an_attempts_files_is_told(
        self, client: TestClient, database: Database, run: Run, attempt: int
    ) -> None:
        path = f"/runs/{run.id}/logs?attempt={attempt}"
        for number in range(3):
            assert client.get(path).json()["size"] == number
            with database.transaction() as session:
                session.add(LogChunk(run_id=run.id, attempt=attempt, offset=number, data=b"x"))
                of_attempt = (Attempt.run_id == run.id, Attempt.number == attempt)
                session.execute(update(Attempt).where(*of_attempt).values(log_offset=number + 1))
                assert client.get(path).json()["size"] == number

    def test_a_deleted_one_is_gone(self, client: TestClient, other: TestClient, run: Run) -> None:
        for path in ("", "/curves"):
            assert client.get(f"/runs/{run.id}{path}").status_code == 200
        assert other.delete(f"/runs/{run.id}").status_code == 204
        for path in ("", "/curves"):
            assert client.get(f"/runs/{run.id}{path}").status_code == 404

    def test_the_oldest_give_way(self) -> None:
        answers, keys = response_cache._Answers(20 * 8), [("", str(number), b"", ()) for number in range(10)]
        for key in keys:
            answers.keep(key, [{"status": 200}, {"body": bytes(20)}], 60.0)
        answers.keep(keys[0], [{"status": 200}, {"body": bytes(21)}], 60.0)
        assert [bool(answers.of(key)) for key in keys] == [False] * 2 + [True] * 8
