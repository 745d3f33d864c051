"""PostgreSQL and Valkey as child processes: paths, root, locking, and no data loss after a kill."""

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import redis
from sqlalchemy import create_engine, text

from service.local import EmbeddedError, postgres, valkey
from service.local.server import Server


@contextmanager
def running_postgres(data: Path) -> Iterator[Server]:
    server = postgres.start(data, durable=False)
    try:
        yield server
    finally:
        server.stop()


@contextmanager
def running_valkey(data: Path) -> Iterator[Server]:
    server = valkey.start(data)
    try:
        yield server
    finally:
        server.stop()


def execute(server: Server, *statements: str) -> object:
    engine = create_engine(server.url)
    try:
        with engine.begin() as connection:
            results = [connection.execute(text(statement)) for statement in statements]
            return results[-1].scalar() if results[-1].returns_rows else None
    finally:
        engine.dispose()


def connect(server: Server) -> "redis.Redis":
    path = server.url.removeprefix("redis+socket://").partition("?")[0]
    return redis.Redis(unix_socket_path=path, decode_responses=True)


def awkward_path(inside: Path) -> Path:
    """A private path with spaces and percent signs that is too long for a Unix socket."""
    closed = inside / "closed"
    closed.mkdir(mode=0o700)
    return closed / "a b%20c" / ("x" * 120)


@pytest.fixture(scope="module")
def awkward(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A path of this kind for several PostgreSQL servers in sequence, because creating files takes a second."""
    return awkward_path(tmp_path_factory.mktemp("awkward"))


class TestPostgres:
    def test_it_runs_in_an_unusual_path_and_keeps_its_data(self, awkward: Path) -> None:
        with running_postgres(awkward) as server:
            execute(server, "CREATE TABLE kept (value text)", "INSERT INTO kept VALUES ('ünïcode')")
        with running_postgres(awkward) as server:
            assert execute(server, "SELECT value FROM kept") == "ünïcode"

    def test_committed_data_survives_a_kill(self, awkward: Path) -> None:
        server = postgres.start(awkward)
        execute(server, "CREATE TABLE committed AS SELECT 7 AS value")
        server.process.kill()
        server.process.wait()

        with running_postgres(awkward) as again:
            assert again.url == server.url
            assert execute(again, "SELECT value FROM committed") == 7

    def test_a_failed_start_does_not_redirect_clients(self, awkward: Path) -> None:
        server = postgres.start(awkward, durable=False)
        server.process.kill()
        server.process.wait()
        with pytest.raises(EmbeddedError):
            postgres.start(awkward, durable=False, announce=lambda process: process.kill())
        with running_postgres(awkward) as again:
            assert again.url == server.url

    def test_it_opens_no_tcp_port_has_private_sockets_and_rejects_a_second_server(self, awkward: Path) -> None:
        with running_postgres(awkward) as server:
            assert execute(server, "SHOW listen_addresses") == ""
            sockets = (awkward / "sockets").resolve()
            assert stat.S_IMODE(sockets.stat().st_mode) == 0o700
            with pytest.raises(EmbeddedError, match="in use"):
                postgres.start(awkward)
        assert not sockets.exists()

    def test_an_interrupted_creation_is_repeated_and_a_damaged_cluster_is_an_error_with_its_log(
        self, tmp_path: Path
    ) -> None:
        (tmp_path / "data" / "cluster.new").mkdir(parents=True)
        (tmp_path / "data" / "cluster.new" / "half").write_text("made")
        with running_postgres(tmp_path / "data") as server:
            assert execute(server, "SELECT 1") == 1

        (tmp_path / "data" / "cluster" / "global" / "pg_control").unlink()
        with pytest.raises(EmbeddedError, match="pg_control"):
            postgres.start(tmp_path / "data")

    @pytest.mark.skipif(os.geteuid() != 0, reason="only root has to become another user")
    def test_root_runs_it_as_another_user(self, awkward: Path) -> None:
        with running_postgres(awkward) as server:
            assert Path(f"/proc/{server.process.pid}").stat().st_uid != 0


class TestValkey:
    def test_messages_survive_a_kill_in_an_unusual_path(self, tmp_path: Path) -> None:
        awkward = awkward_path(tmp_path)
        server = valkey.start(awkward)
        with connect(server) as client:
            client.rpush("queue", "wake up")
            client.execute_command("WAITAOF", 1, 0, 5000)
        server.process.kill()
        server.process.wait()

        with running_valkey(awkward) as again, connect(again) as client:
            assert again.url == server.url
            assert client.lrange("queue", 0, -1) == ["wake up"]

    def test_a_second_server_is_rejected(self, tmp_path: Path) -> None:
        with running_valkey(tmp_path / "data") as server:
            with pytest.raises(EmbeddedError, match="in use"):
                valkey.start(tmp_path / "data")
            with connect(server) as client:
                assert client.ping()

    def test_it_opens_no_tcp_port(self, tmp_path: Path) -> None:
        with running_valkey(tmp_path / "data") as server, connect(server) as client:
            assert client.config_get("port") == {"port": "0"}
