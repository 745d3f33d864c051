"""The Python client with a network that loses requests, responses and parts of files."""

import collections
import contextlib
import hashlib
import random
import socket
import threading
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import func, select

from service.api.checkpoints.schemas import CheckpointFileView
from service.client import ApiError, Client, RunEnd, RunEvent, RunProgress
from service.client.events import frames
from service.contracts.status import JobStatus
from service.db.events import notify_job, record
from service.db.models import Generation, Run
from service.db.models.run import LogChunk
from service.db.session import Database

Eventually = Callable[[Callable[[], object]], None]
WEIGHTS = "pytorch_lora_weights.safetensors"
DATA = bytes(range(256)) * 12_000  # three blocks


class Network:
    """A proxy between client and service with a plan for the next connections; after these, all data passes.

    `lose`: the request arrives, the response does not. `refuse`: nothing arrives. A number: this number of bytes of the
    response arrives. Bytes: the response, without a request to the service.
    """

    def __init__(self, url: str) -> None:
        self._service = ("127.0.0.1", int(url.rpartition(":")[2]))
        self._listening = socket.create_server(("127.0.0.1", 0), backlog=100)
        self.url = f"http://127.0.0.1:{self._listening.getsockname()[1]}"
        self.plan: collections.deque[str | int | bytes] = collections.deque()
        self.always: str | int | bytes = "pass"
        self.connections = 0
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        self._listening.shutdown(socket.SHUT_RDWR)
        self._listening.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self._listening.accept()
                self.connections += 1
                fault = self.plan.popleft() if self.plan else self.always
                threading.Thread(target=self._serve, args=(connection, fault), daemon=True).start()

    def _serve(self, client: socket.socket, fault: str | int | bytes) -> None:
        with client, contextlib.suppress(OSError):
            if fault == "refuse":
                return
            if isinstance(fault, bytes):
                client.recv(1 << 20)
                client.sendall(fault)
                return
            with socket.create_connection(self._service) as service:
                there = threading.Thread(target=_carry, args=(client, service), daemon=True)
                there.start()
                if fault == "lose":
                    service.recv(1)
                else:
                    _carry(service, client, fault if isinstance(fault, int) else None)
                with contextlib.suppress(OSError):
                    client.shutdown(socket.SHUT_RDWR)
                there.join()


def _carry(source: socket.socket, sink: socket.socket, max_bytes: int | None = None) -> None:
    with contextlib.suppress(OSError):
        while (max_bytes is None or max_bytes > 0) and (data := source.recv(min(65536, max_bytes or 65536))):
            sink.sendall(data)
            max_bytes = None if max_bytes is None else max_bytes - len(data)


@pytest.fixture(autouse=True)
def _short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shorten the pauses between retries to a hundredth."""
    monkeypatch.setattr("service.client.transport._FIRST_PAUSE", 0.01)
    monkeypatch.setattr("service.client.transport._LONGEST_PAUSE", 0.1)


def answer(status: str, *headers: str) -> bytes:
    return "\r\n".join([f"HTTP/1.1 {status}", "Content-Length: 0", "Connection: close", *headers, "", ""]).encode()


@pytest.fixture
def url(app: FastAPI, serve: Any) -> Iterator[str]:
    """The URL of the service."""
    with serve(app) as address:
        yield address


@pytest.fixture
def network(url: str) -> Iterator[Network]:
    """A proxy with a plan for its connections."""
    between = Network(url)
    yield between
    between.close()


@pytest.fixture
def reaching(network: Network) -> Iterator[Client]:
    """A client that connects through the proxy."""
    with Client(network.url, patience=30) as connected:
        yield connected


def count(database: Database) -> int:
    with database.sessions() as session:
        return session.scalar(select(func.count()).select_from(Run)) or 0


class TestRetries:
    @pytest.mark.parametrize(
        "faults",
        [
            ["lose"],
            ["lose", "lose", "refuse"],
            ["refuse", 10],
            [answer("503 Service Unavailable"), "lose", answer("502 Bad Gateway"), answer("504 Gateway Timeout")],
            [answer("429 Too Many Requests", "Retry-After: 0"), 200],
        ],
    )
    def test_a_repeated_post_has_one_effect(
        self, reaching: Client, network: Network, database: Database, faults: list[Any]
    ) -> None:
        network.plan.extend(faults)
        run = reaching.create_run({"preset": "shapes", "name": "once"})
        assert network.connections == len(faults) + 1
        assert count(database) == 1
        assert reaching.run(run.id).name == "once"

    def test_two_posts_create_two_runs(self, reaching: Client, database: Database) -> None:
        assert reaching.create_run({}).id != reaching.create_run({}).id
        assert count(database) == 2

    def test_a_failed_get_is_retried(self, reaching: Client, network: Network) -> None:
        network.plan.extend(["refuse", 20, answer("503 Service Unavailable")])
        assert reaching.catalog().models

    def test_a_validation_error_is_raised_immediately_with_every_field(
        self, reaching: Client, network: Network
    ) -> None:
        with pytest.raises(ApiError) as raised:
            reaching.create_run({"training": {"max_steps": 0}, "algorithm": {"group_size": 1}})
        error = raised.value
        assert (error.status, error.code, network.connections) == (422, "invalid_request", 1)
        assert {error.loc[-1] for error in error.errors} == {"max_steps", "group_size"}
        assert error.request_id and "max_steps" in error.detail == str(error)

    def test_retries_end_after_the_patience(self, network: Network) -> None:
        network.always = "refuse"
        with (
            Client(network.url, patience=0.5) as client,
            pytest.raises(ApiError, match="is the service running") as raised,
        ):
            client.catalog()
        assert (raised.value.status, raised.value.code) == (None, "unreachable")
        assert network.connections > 1

    def test_a_retry_after_beyond_the_patience_is_raised(self, network: Network) -> None:
        network.plan.append(answer("429 Too Many Requests", "Retry-After: 3600"))
        with Client(network.url) as client, pytest.raises(ApiError) as raised:
            client.catalog()
        assert (raised.value.status, raised.value.retry_after, network.connections) == (429, 3600, 1)

    @pytest.mark.parametrize("url", ["", "localhost:8000", "ftp://localhost", "http://", "http://[::1", "file:///etc"])
    def test_an_invalid_url_is_rejected(self, url: str) -> None:
        with pytest.raises(ApiError, match="Invalid service URL"):
            Client(url)

    def test_a_path_of_another_host_is_not_requested(self, reaching: Client) -> None:
        for path in ("http://evil.example/", "//evil.example/", "relative"):
            with pytest.raises(ApiError, match="Invalid path"):
                reaching.fetch_image(path)


class TestDownload:
    @pytest.fixture
    def checkpoint(self, records: Any) -> Any:
        return records.checkpoint(records.run(JobStatus.SUCCEEDED), {WEIGHTS: DATA, "sub dir/état.json": b"{}"})

    def test_a_broken_transfer_resumes_at_its_last_byte(
        self, reaching: Client, network: Network, checkpoint: Any, tmp_path: Path
    ) -> None:
        network.plan.extend([3000, 1_500_000, "refuse", 700_000, 20_000])
        saved = reaching.download(checkpoint.id, tmp_path / "out")
        assert {path.relative_to(tmp_path / "out").as_posix() for path in saved} == {WEIGHTS, "sub dir/état.json"}
        assert (tmp_path / "out" / WEIGHTS).read_bytes() == DATA
        assert {path.name for path in (tmp_path / "out").rglob("*") if path.is_file()} == {WEIGHTS, "état.json"}
        assert network.connections >= 5

    def test_the_next_call_resumes_a_failed_download(
        self, url: str, network: Network, checkpoint: Any, tmp_path: Path
    ) -> None:
        with Client(url) as client:
            (file,) = (file for file in client.checkpoint(checkpoint.id).files if file.name == WEIGHTS)
        network.plan.append(1_500_000)
        network.always = "refuse"
        with Client(network.url, patience=0) as impatient:
            with pytest.raises(ApiError, match="is the service running"):
                impatient._download_file(file, tmp_path / "out")
            part = tmp_path / "out" / f".{WEIGHTS}.part"
            assert 0 < part.stat().st_size < len(DATA)
            assert not (tmp_path / "out" / WEIGHTS).exists()
            network.always = len(DATA) - part.stat().st_size + 2000  # enough for the headers and the rest only
            assert impatient._download_file(file, tmp_path / "out").read_bytes() == DATA

    def test_an_existing_file_is_unchanged(
        self, reaching: Client, network: Network, checkpoint: Any, tmp_path: Path
    ) -> None:
        first = [path.stat().st_mtime_ns for path in reaching.download(checkpoint.id, tmp_path)]
        assert [path.stat().st_mtime_ns for path in reaching.download(checkpoint.id, tmp_path)] == first

    @pytest.mark.parametrize("damage", [DATA[:-1] + b"!", b"!" + DATA[1:]])
    def test_a_damaged_file_never_gets_its_name(
        self, url: str, checkpoint: Any, database: Database, tmp_path: Path, damage: bytes
    ) -> None:
        (tmp_path / "tampered").write_bytes(damage)
        database.artifacts.put_file(tmp_path / "tampered", f"{checkpoint.key}/{WEIGHTS}")
        with Client(url, patience=1) as client, pytest.raises(ApiError):
            client.download(checkpoint.id, tmp_path / "out")
        assert not (tmp_path / "out" / WEIGHTS).exists()

    def test_an_error_response_is_an_api_error(self, reaching: Client, checkpoint: Any, tmp_path: Path) -> None:
        file = reaching.checkpoint(checkpoint.id).files[0]
        other = file.model_copy(update={"url": f"/checkpoints/{uuid.uuid4()}/files/{WEIGHTS}"})
        with pytest.raises(ApiError, match=r"Checkpoint .* not found") as raised:
            reaching._download_file(other, tmp_path / "out")
        assert raised.value.status == 404

    @pytest.mark.parametrize("name", ["../x", "/etc/x", "a/../../x", "a\\x", "", ".."])
    def test_a_name_outside_the_directory_is_rejected(self, reaching: Client, tmp_path: Path, name: str) -> None:
        file = CheckpointFileView(name=name, sha256=hashlib.sha256(b"").hexdigest(), size=0, url="/x")
        with pytest.raises(ApiError, match="it is outside"):
            reaching._download_file(file, tmp_path / "out")
        assert not list(tmp_path.rglob("x*"))


class TestWait:
    def test_waiting_for_a_run_reports_progress_and_returns_its_end(
        self, reaching: Client, network: Network, records: Any, database: Database
    ) -> None:
        run = records.run(JobStatus.RUNNING)
        seen: list[RunProgress] = []

        def notice(progress: RunProgress) -> None:
            seen.append(progress)
            if len(seen) == 1:
                with database.transaction() as session:
                    session.get_one(Run, run.id).move_to(JobStatus.SUCCEEDED)
                    notify_job(session, "run", run.id)

        network.plan.extend(["refuse", 150])
        assert reaching.wait_for_run(run.id, timeout=60, every=0.1, seen=notice).status is JobStatus.SUCCEEDED
        assert [one.status for one in seen] == [JobStatus.RUNNING, JobStatus.SUCCEEDED]

    def test_waiting_for_a_run_until_a_status(self, reaching: Client, records: Any) -> None:
        run = records.run(JobStatus.RUNNING)
        assert reaching.wait_for_run(run.id, 60, until={"running", "paused"}).status is JobStatus.RUNNING

    def test_waiting_for_a_run_times_out(self, reaching: Client, records: Any) -> None:
        with pytest.raises(TimeoutError, match="is still running after 1 s"):
            reaching.wait_for_run(records.run(JobStatus.RUNNING).id, timeout=1)

    def test_waiting_for_an_unknown_run_is_an_error(self, reaching: Client) -> None:
        with pytest.raises(ApiError, match=r"Run .* not found") as raised:
            reaching.wait_for_run(uuid.uuid4())
        assert raised.value.status == 404

    def test_waiting_for_a_generation(self, reaching: Client, database: Database, eventually: Eventually) -> None:
        created = reaching.generate({"prompts": ["a red circle"]})
        with pytest.raises(TimeoutError, match="is still queued after"):
            reaching.wait_for_generation(created.id, timeout=0.5)
        ended = []
        waiting = threading.Thread(target=lambda: ended.append(reaching.wait_for_generation(created.id, timeout=60)))
        waiting.start()
        with database.transaction() as session:
            session.get_one(Generation, created.id).move_to(JobStatus.CANCELLED)
            notify_job(session, "generation", created.id)
        waiting.join(60)
        assert [one.status for one in ended] == [JobStatus.CANCELLED]


class TestEvents:
    @pytest.mark.parametrize("seed", range(8))
    def test_each_event_is_received_once_despite_broken_streams(
        self, reaching: Client, network: Network, records: Any, database: Database, seed: int
    ) -> None:
        run = records.run(JobStatus.RUNNING)
        with database.transaction() as session:
            for number in range(60):
                record(session, Run, run.id, 1, "checkpoint", {"number": number})
            session.get_one(Run, run.id).move_to(JobStatus.SUCCEEDED)
        chance = random.Random(seed)
        network.plan.extend(chance.choice([chance.randrange(4000), chance.randrange(400), "refuse"]) for _ in range(12))
        events = [event for event in reaching.events(run.id) if not isinstance(event, RunProgress)]
        assert [event.data["number"] for event in events if isinstance(event, RunEvent)] == list(range(60))
        assert isinstance(events[-1], RunEnd)

    def test_a_response_without_a_stream_is_an_error(self, reaching: Client, network: Network) -> None:
        network.plan.append(answer("200 OK", "Content-Type: text/html"))
        with pytest.raises(ApiError, match="is not a G²RPO service"):
            next(reaching.events(uuid.uuid4()))


class TestLists:
    def test_all_pages_are_fetched(self, reaching: Client, records: Any, network: Network) -> None:
        runs = [records.run().id for _ in range(203)]
        network.plan.extend(["refuse", 30])
        assert [run.id for run in reaching.runs()] == runs[::-1]

    def test_logs_continue_with_the_next_attempt(self, reaching: Client, records: Any, database: Database) -> None:
        run = records.run(JobStatus.RUNNING)
        with database.transaction() as session:
            for attempt in (1, 3):
                session.add(LogChunk(run_id=run.id, attempt=attempt, offset=0, data=f"attempt {attempt}\n".encode()))
        assert [part.text for part in reaching.follow_logs(run.id, follow=False)] == ["attempt 3\n"]
        assert [part.text for part in reaching.follow_logs(run.id, attempt=1, follow=False)] == ["attempt 1\n"]
        following = reaching.follow_logs(run.id, attempt=1, every=0.05)
        assert [next(following).text for _ in range(2)] == ["attempt 1\n", "attempt 3\n"]
        with database.transaction() as session:
            session.add(LogChunk(run_id=run.id, attempt=3, offset=10, data=b"more\n"))
            session.add(LogChunk(run_id=run.id, attempt=4, offset=0, data=b"last\n"))
            session.get_one(Run, run.id).move_to(JobStatus.FAILED)
        assert [part.text for part in following] == ["more\n", "last\n"]


class TestKeys:
    def test_a_key_is_shown_and_a_stream_ends_when_it_is_revoked(
        self, url: str, records: Any, database: Database
    ) -> None:
        run = records.run(JobStatus.RUNNING)
        with Client(url) as anonymous:
            admin = anonymous.create_key("admin", ["admin"])
            with pytest.raises(ApiError) as raised:
                anonymous.run(run.id)
            assert raised.value.status == 401
        with Client(url, admin.key) as owner:
            created = owner.create_key("reader", ["read"])
            with Client(url, created.key) as client:
                events = client.events(run.id)
                assert isinstance(next(events), RunProgress)
                assert owner.revoke_key(created.id).state == "revoked"
                with database.transaction() as session:
                    notify_job(session, "run", run.id)
                with pytest.raises(ApiError) as ended:
                    next(events)
                assert (ended.value.status, ended.value.code) == (401, "key_revoked")
            assert [key.name for key in list(owner.keys())] == ["reader", "admin"]


LINES = st.sampled_from(
    ["data: a", "data: b\u2028c", "event: e", "id: 7", ": ping", "", "data", "data:x", "retry: 5", "?"]
)


@given(st.lists(LINES, max_size=20), st.sampled_from(["\n", "\r\n"]), st.lists(st.integers(1, 9), max_size=60))
def test_frames_do_not_depend_on_block_sizes(lines: list[str], end: str, sizes: list[int]) -> None:
    data = "".join(line + end for line in lines).encode()
    blocks, rest = [], data
    for size in sizes:
        blocks.append(rest[:size])
        rest = rest[size:]
    whole = list(frames([data]))
    assert list(frames([*blocks, rest])) == whole
    assert [text.count("\u2028") for _, text in whole] == [text.count("c") for _, text in whole]
