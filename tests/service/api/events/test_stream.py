"""`GET /runs/{run_id}/events`: all events, once and in order, then the end."""

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import uuid
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from sqlalchemy import text
from sqlalchemy.engine import make_url

from service.api.events.service import Position, Update
from service.api.events.stream import Streams
from service.app import create_app
from service.client import ApiError, Client, RunEnd, RunEvent, RunProgress
from service.client.events import frames
from service.contracts.status import JobStatus
from service.core.settings import Settings
from service.db import migrate
from service.db.models import Run
from service.db.session import Database, connect
from service.local import postgres

Eventually = Callable[[Callable[[], object]], None]


def received(url: str, run: Any, **request: Any) -> list[tuple[str, dict[str, Any]]]:
    """Name and data of every event of a stream that ends."""
    with httpx.stream("GET", f"{url}/runs/{run.id}/events", timeout=30, **request) as response:
        assert response.status_code == 200, response.read()
        return [(name, json.loads(data)) for name, data in frames(response.iter_bytes())]


def ids(events: list[tuple[str, dict[str, Any]]]) -> list[int]:
    return [data["id"] for _, data in events if "id" in data]


@pytest.fixture
def ended(records: Any, story: Any) -> Run:
    """An ended run with more events than a single read returns."""
    run: Run = records.run(JobStatus.RUNNING)
    story.tell(run, "status", "started", *["checkpoint"] * 240, note="a\u2028b\r\nη")
    records.metric(run, "reward/clip_score", [0.1, None, 0.3])
    story.move(run, JobStatus.SUCCEEDED)
    return run


class TestWhole:
    def test_a_stream_starts_with_the_first_event_and_closes_after_the_last(self, url: str, ended: Run) -> None:
        events = received(url, ended)

        assert ids(events) == list(range(1, 244))
        assert [name for name, _ in events[-3:]] == ["status", "progress", "end"]
        assert events[0][1] | {"time": ""} == {
            "id": 1,
            "time": "",
            "attempt": 1,
            "type": "status",
            "data": {"note": "a\u2028b\r\nη"},
        }
        assert events[-1][1] == {"run_id": str(ended.id), "status": "succeeded", "last_event": 243}
        assert events[-2][1]["metrics"] == {"reward/clip_score": {"step": 2, "value": 0.3}}

    def test_lines_have_the_event_stream_format(self, url: str, ended: Run) -> None:
        response = httpx.get(f"{url}/runs/{ended.id}/events?after=241")
        assert response.headers["content-type"].startswith("text/event-stream")
        assert response.headers["cache-control"] == "no-store"
        retry, first, *_ = response.text.split("\r\n\r\n")
        assert retry == "retry: 2000"
        assert first.startswith("id: 242\r\nevent: checkpoint\r\ndata: {")
        assert response.text.isascii()

    def test_a_stream_resumes_after_any_event(self, url: str, ended: Run) -> None:
        for after in (0, 1, 2, 99, 100, 101, 199, 200, 201, 242, 243):
            rest = list(range(after + 1, 244))
            assert ids(received(url, ended, headers={"Last-Event-ID": str(after)})) == rest
            assert ids(received(url, ended, params={"after": after})) == rest
            both = received(url, ended, params={"after": 0}, headers={"Last-Event-ID": str(after)})
            assert ids(both) == rest and both[-1][0] == "end"

    def test_after_the_last_event_only_the_end_is_sent(self, url: str, ended: Run) -> None:
        for last in (243, 244, 2**63 - 1):
            assert [name for name, _ in received(url, ended, headers={"Last-Event-ID": str(last)})] == [
                "progress",
                "end",
            ]


class TestRefused:
    @pytest.mark.parametrize("last", ["-1", "x", "", str(2**63), "1" * 5000, "1e3", "0x10", "\xb2"])
    def test_an_invalid_event_id(self, client: TestClient, records: Any, last: str) -> None:
        run = records.run()
        response = client.get(f"/runs/{run.id}/events", headers={"Last-Event-ID": last.encode("latin-1")})
        assert response.status_code == 422
        assert response.json()["errors"][0]["loc"][0] == "header"

    @pytest.mark.parametrize("query", ["after=-1", f"after={2**63}", "every=0", "every=nan", "every=61", "before=3"])
    def test_an_invalid_query(self, client: TestClient, records: Any, query: str) -> None:
        assert client.get(f"/runs/{records.run().id}/events?{query}").status_code == 422

    def test_an_unknown_run_before_the_stream_begins(self, client: TestClient) -> None:
        response = client.get(f"/runs/{uuid.uuid4()}/events")
        assert (response.status_code, response.json()["code"]) == (404, "not_found")

    def test_another_media_type(self, client: TestClient, records: Any) -> None:
        response = client.get(f"/runs/{records.run().id}/events", headers={"Accept": "application/json"})
        assert (response.status_code, response.json()["code"]) == (406, "not_acceptable")

    def test_too_many_streams_of_a_process(
        self, database: Database, serve: Any, records: Any, eventually: Eventually
    ) -> None:
        run = records.run(JobStatus.RUNNING)
        app = create_app(database.settings.model_copy(update={"max_streams": 2}))
        with serve(app) as url, httpx.Client(base_url=url) as client:
            path = f"/runs/{run.id}/events"
            with client.stream("GET", path), client.stream("GET", path):
                refused = client.get(path)
                assert (refused.status_code, refused.json()["code"]) == (503, "too_many_streams")
                assert int(refused.headers["Retry-After"]) > 0
            eventually(lambda: app.state.streams.open == 0)
            with client.stream("GET", path) as response:
                assert response.status_code == 200


class TestLive:
    def test_events_are_sent_immediately(self, following: Client, records: Any, story: Any) -> None:
        run = records.run(JobStatus.RUNNING)
        events = following.events(run.id, every=0.1)
        first = next(events)
        assert isinstance(first, RunProgress) and first.status is JobStatus.RUNNING

        story.tell(run, "checkpoint", step=20)
        second = next(events)
        assert isinstance(second, RunEvent) and (second.id, second.data) == (1, {"step": 20})

        records.metric(run, "reward/clip_score", [0.5])
        story.progress(run, 7)
        third = next(events)
        assert isinstance(third, RunProgress) and third.progress is not None
        assert (third.progress.step, third.eta_seconds, third.metrics["reward/clip_score"].value) == (7, 53.0, 0.5)

        story.progress(run, 8)
        fourth = next(events)
        assert isinstance(fourth, RunProgress) and fourth.metrics == {}

        story.move(run, JobStatus.FAILED)
        last = list(events)
        assert [type(event) for event in last] == [RunEvent, RunProgress, RunEnd]
        assert last[-1].status is JobStatus.FAILED

    def test_progress_is_sent_at_the_requested_interval(self, following: Client, records: Any, story: Any) -> None:
        run = records.run(JobStatus.RUNNING)
        events = following.events(run.id, every=1.5)
        next(events)
        for step in range(1, 30):
            story.progress(run, step)
        told_steps = []
        while not told_steps or told_steps[-1] != 29:
            event = next(events)
            assert isinstance(event, RunProgress) and event.progress is not None
            told_steps.append(event.progress.step)
        assert len(told_steps) <= 3

    def test_the_stream_of_a_paused_run_continues(self, following: Client, records: Any, story: Any) -> None:
        run = records.run(JobStatus.RUNNING)
        events = following.events(run.id, every=0.1)
        next(events)
        for status in (JobStatus.PAUSING, JobStatus.PAUSED, JobStatus.QUEUED, JobStatus.CANCELLED):
            story.move(run, status)
            assert isinstance(told_event := next(events), RunEvent) and told_event.data == {"status": status}
            assert isinstance(standing := next(events), RunProgress) and standing.status is status
        assert isinstance(next(events), RunEnd)

    def test_an_id_greater_than_the_newest_waits(self, following: Client, records: Any, story: Any) -> None:
        run = records.run(JobStatus.RUNNING)
        story.tell(run, "started")
        events = following.events(run.id, after=2, every=0.1)
        next(events)
        story.tell(run, "second", "third")
        assert isinstance(third := next(events), RunEvent) and third.id == 3

    def test_deleting_a_run_ends_its_stream_with_a_problem(
        self, following: Client, records: Any, database: Database
    ) -> None:
        run = records.run(JobStatus.RUNNING)
        events = following.events(run.id)
        next(events)
        with database.transaction() as session:
            session.execute(text("DELETE FROM runs"))
            session.execute(text("SELECT pg_notify('g2rpo_jobs', :job)"), {"job": f"run:{run.id}"})
        with pytest.raises(ApiError) as raised:
            next(events)
        assert (raised.value.status, raised.value.code) == (404, "not_found")

    def test_many_clients_receive_all_events_without_holding_connections(
        self, following: Client, url: str, records: Any, story: Any, database: Database, eventually: Eventually
    ) -> None:
        listeners, run = 200, records.run(JobStatus.RUNNING)
        limits = httpx.Limits(max_connections=None)
        with httpx.Client(base_url=url, limits=limits, timeout=60) as client, ThreadPoolExecutor(listeners) as pool:
            heard = threading.Semaphore(0)

            def listen() -> list[str]:
                with client.stream("GET", f"/runs/{run.id}/events") as response:
                    names = []
                    for name, _ in frames(response.iter_bytes()):
                        names.append(name)
                        heard.release()
                    return names

            listening = [pool.submit(listen) for _ in range(listeners)]
            for _ in range(listeners):
                assert heard.acquire(timeout=60)
            eventually(lambda: _held(database) == 0)
            assert following.run(run.id).status is JobStatus.RUNNING  # other requests are answered
            story.tell(run, "checkpoint")
            story.move(run, JobStatus.SUCCEEDED)
            expected = ["progress", "checkpoint", "status", "progress", "end"]
            for one in listening:
                names = one.result(60)
                assert [names[0], *[name for name in names[1:-2] if name != "progress"], *names[-2:]] == expected


def _held(database: Database) -> int:
    """Connections of the service in the middle of a transaction."""
    query = (
        "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'g2rpo' AND state <> 'idle' "
        "AND datname = current_database() AND pid <> pg_backend_pid()"
    )
    with database.sessions() as session:
        return int(session.scalar(text(query)) or 0)


class TestSurvives:
    def test_a_restart_of_the_database(
        self, tmp_path: Path, settings: Settings, serve: Any, records: Any, story: Any
    ) -> None:
        server = postgres.start(tmp_path / "own", durable=False)
        own = connect(settings.model_copy(update={"database_url": server.url}))
        records.database = story.database = own
        try:
            migrate.upgrade(server.url)
            run = records.run(JobStatus.RUNNING)
            with serve(create_app(own.settings)) as url, Client(url) as client:
                events = client.events(run.id, every=0.1)
                next(events)
                story.tell(run, "before")
                assert isinstance(first := next(events), RunEvent) and first.type == "before"

                server.process.send_signal(signal.SIGINT)
                server.process.wait()
                server = postgres.start(tmp_path / "own", durable=False)
                story.tell(run, "after")
                story.move(run, JobStatus.SUCCEEDED)

                rest = list(events)
                assert [event.type for event in rest if isinstance(event, RunEvent)] == ["after", "status"]
                assert isinstance(rest[-1], RunEnd)
        finally:
            own.close()
            server.stop()

    def test_a_lost_listening_connection(self, following: Client, records: Any, story: Any, database: Database) -> None:
        run = records.run(JobStatus.RUNNING)
        events = following.events(run.id, every=0.1)
        next(events)
        with database.transaction() as session:
            listening = "application_name = 'g2rpo-listen' AND datname = current_database()"
            session.execute(text(f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE {listening}"))
        story.move(run, JobStatus.SUCCEEDED)
        assert isinstance(list(events)[-1], RunEnd)

    def test_a_database_url_with_connection_options(
        self, database: Database, serve: Any, records: Any, story: Any
    ) -> None:
        address = make_url(database.settings.database_url).update_query_dict(
            {"connect_timeout": "3", "application_name": "mine", "keepalives": "1"}
        )
        run = records.run(JobStatus.RUNNING)
        settings = database.settings.model_copy(update={"database_url": address.render_as_string(False)})
        with serve(create_app(settings)) as url, Client(url) as client:
            events = client.events(run.id, every=0.1)
            next(events)
            story.move(run, JobStatus.SUCCEEDED)
            assert isinstance(list(events)[-1], RunEnd)

    def test_the_client_survives_a_restart_of_the_service(
        self, app: FastAPI, database: Database, serve: Any, records: Any, story: Any
    ) -> None:
        run = records.run(JobStatus.RUNNING)
        with serve(app) as url:
            client = Client(url)
            events = client.events(run.id, every=0.1)
            next(events)
            story.tell(run, "first")
            assert isinstance(first := next(events), RunEvent) and first.id == 1
        story.tell(run, "second")
        with serve(create_app(database.settings), int(url.rpartition(":")[2])), client:
            assert isinstance(second := next(events), RunEvent) and second.id == 2
            story.move(run, JobStatus.SUCCEEDED)
            rest = list(events)
        assert [event.id for event in rest if isinstance(event, RunEvent)] == [3]
        assert isinstance(rest[-1], RunEnd)

    def test_an_old_stream_is_closed_and_resumed(
        self, database: Database, serve: Any, records: Any, story: Any
    ) -> None:
        run = records.run(JobStatus.RUNNING)
        settings = database.settings.model_copy(update={"max_stream_seconds": 0.5})
        with serve(create_app(settings)) as url, Client(url) as client:
            assert [name for name, _ in received(url, run)] == ["progress"]  # closed without an `end` event
            events = client.events(run.id, every=0.1)
            assert [isinstance(next(events), RunProgress) for _ in range(3)] == [True] * 3  # one per stream
            story.move(run, JobStatus.SUCCEEDED)
            assert isinstance(list(events)[-1], RunEnd)


def test_a_stopping_server_ends_its_streams_immediately(database: Database, records: Any) -> None:
    run = records.run(JobStatus.RUNNING)
    with socket.create_server(("127.0.0.1", 0)) as listening:
        environment = {"G2RPO_DATABASE_URL": database.settings.database_url, "G2RPO_DATA_DIR": str(records.directory)}
        server = subprocess.Popen(
            [sys.executable, "-m", "service.local.api", str(listening.fileno())],
            env={**os.environ, **environment},
            pass_fds=[listening.fileno()],
            stderr=subprocess.PIPE,
        )
        url = f"http://127.0.0.1:{listening.getsockname()[1]}"
        with httpx.stream("GET", f"{url}/runs/{run.id}/events", timeout=60) as response:
            heard = frames(response.iter_bytes())
            assert next(heard)[0] == "progress"
            server.terminate()
            assert list(heard) == []  # complete: a lost connection would raise
        _, output = server.communicate(timeout=60)
        assert server.returncode in (0, -signal.SIGTERM)
        assert b"Traceback" not in output and b"without completing" not in output


def test_concurrent_streams_at_the_same_position_share_a_read() -> None:
    reads: list[int] = []
    begun, go_on = threading.Event(), threading.Event()

    def read() -> Update:
        reads.append(len(reads))
        begun.set()
        go_on.wait(30)
        return Update(Position(len(reads)), [])

    async def ask() -> list[Update]:
        streams = Streams(10)
        together = [asyncio.create_task(streams.read("a run", Position(0), read)) for _ in range(5)]
        elsewhere = asyncio.create_task(streams.read("a run", Position(7), lambda: Update(Position(7), [])))
        await asyncio.to_thread(begun.wait, 30)
        late = asyncio.create_task(streams.read("a run", Position(0), read))  # possibly after a later notification
        await elsewhere
        go_on.set()
        return [await one for one in (*together, late)]

    first, *same, last = asyncio.run(ask())
    assert all(update is first for update in same)
    assert last is not first and len(reads) == 2
