"""PostgreSQL and Valkey as child processes: paths, root, locking, and no data loss after a kill."""

import os
import pwd
import re
import shutil
import stat
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
import pytest
import redis
from sqlalchemy import create_engine, text
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ProgrammingError

from service.local import EmbeddedError, os_account, postgres, valkey
from service.local.server import Server

AS_ROOT = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")


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


def log_in(server: Server, role: str) -> str:
    """Log in with a role and return the name of the database."""
    with psycopg.connect(host=str(make_url(server.url).query["host"]), user=role, dbname="g2rpo") as connection:
        row = connection.execute("SELECT current_database()").fetchone()
    assert row is not None
    return str(row[0])


def as_user(name: str, function: Callable[[], str]) -> str:
    """Run a function in a process of another user, and return its result or its exception."""
    account = pwd.getpwnam(name)
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.setgroups([])
            os.setgid(account.pw_gid)
            os.setuid(account.pw_uid)
            result = function()
        except BaseException as error:
            result = f"{type(error).__name__}: {error}"
        finally:
            os.write(writing, result.encode()[:4000])
            os._exit(0)
    os.close(writing)
    with os.fdopen(reading, encoding="utf-8", errors="replace") as pipe:
        result = pipe.read()
    os.waitpid(child, 0)
    return result


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
            assert stat.S_IMODE(sockets.stat().st_mode) & 0o007 == 0
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

    @AS_ROOT
    def test_root_runs_it_as_a_user_of_its_own_without_capabilities(self, awkward: Path) -> None:
        with running_postgres(awkward) as server:
            process = Path(f"/proc/{server.process.pid}")
            assert process.stat().st_uid == pwd.getpwnam(os_account.NAME).pw_uid
            status = (process / "status").read_text()
            assert re.findall(r"^Cap(?:Prm|Eff|Amb):\s*(\w+)$", status, re.MULTILINE) == ["0" * 16] * 3
            assert re.findall(r"^Groups:\s*(\d.*)$", status, re.MULTILINE) == []

    @pytest.mark.skipif(os.geteuid() != 0 or shutil.which("setpriv") is None, reason="needs root and setpriv")
    def test_a_root_that_cannot_become_another_user_is_an_error_with_a_fix(self, tmp_path: Path) -> None:
        code = "import pathlib, sys; from service.local import postgres; postgres.start(pathlib.Path(sys.argv[1]))"
        limited = ["setpriv", "--inh-caps=-setuid", "--bounding-set=-setuid"]
        refused = subprocess.run(
            [*limited, sys.executable, "-c", code, str(tmp_path / "data")], capture_output=True, text=True
        )
        last = refused.stderr.splitlines()[-1]
        assert f"could not be started as the user {os_account.NAME}" in last and "run as an ordinary user" in last

    def test_the_role_of_the_service_is_no_superuser_and_the_superuser_cannot_log_in(self, awkward: Path) -> None:
        with running_postgres(awkward) as server:
            assert log_in(server, "g2rpo") == "g2rpo"
            assert execute(server, "SELECT rolsuper FROM pg_roles WHERE rolname = current_user") is False
            for statement in ("SELECT pg_read_file('/etc/passwd')", "COPY (SELECT 1) TO PROGRAM 'true'"):
                with pytest.raises(ProgrammingError, match="permission denied"):
                    execute(server, statement)
            with pytest.raises(psycopg.OperationalError, match=r"no pg_hba\.conf entry"):
                log_in(server, "postgres")

    @AS_ROOT
    @pytest.mark.parametrize("user", ["nobody", os_account.NAME])
    @pytest.mark.parametrize("role", ["g2rpo", "postgres"])
    def test_other_users_cannot_log_in(self, awkward: Path, user: str, role: str) -> None:
        with running_postgres(awkward) as server:
            message = as_user(user, lambda: log_in(server, role))
            assert message.startswith("OperationalError"), message
            if user == "nobody":
                assert "Permission denied" in message
                cluster = Path(f"/proc/{server.process.pid}/cwd")
                assert as_user(user, lambda: str(list(cluster.iterdir()))).startswith("PermissionError")

    @AS_ROOT
    def test_an_ordinary_user_runs_it_as_that_user(self) -> None:
        entry = pwd.getpwnam("nobody")
        account = os_account.Account("nobody", entry.pw_uid, entry.pw_gid)
        if not account.can_enter(postgres.installed()):
            pytest.skip("other users cannot enter the directory of the virtual environment")
        with tempfile.TemporaryDirectory(dir="/tmp") as directory:
            os.chown(directory, account.uid, account.gid)

            def log_in_to_own_server() -> str:
                with running_postgres(Path(directory) / "data") as server:
                    owner = Path(f"/proc/{server.process.pid}").stat().st_uid
                    try:
                        log_in(server, "postgres")
                    except psycopg.OperationalError as error:
                        return f"{owner} {log_in(server, 'g2rpo')} {error}"
                    return "the superuser can log in"

            result = as_user("nobody", log_in_to_own_server)
        assert result.startswith(f"{account.uid} g2rpo ") and "no pg_hba.conf entry" in result, result

    @AS_ROOT
    def test_its_programs_may_be_in_a_directory_that_is_closed_to_its_user(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        closed = tmp_path / "closed"
        closed.mkdir(mode=0o700)
        wheel = postgres.installed().parents[1]
        for part in (wheel, wheel.with_name(f"{wheel.name}.libs")):
            shutil.copytree(part, closed / part.name, symlinks=True)
        monkeypatch.syspath_prepend(closed)
        assert postgres.installed().is_relative_to(closed)
        with running_postgres(tmp_path / "data") as server:
            assert execute(server, "SELECT to_tsvector('english', 'running')::text") == "'run':1"  # a shared library

    @AS_ROOT
    @pytest.mark.parametrize("path", ["data", "data/cluster"])
    def test_files_of_another_user_are_an_error_that_names_both(self, tmp_path: Path, path: str) -> None:
        (tmp_path / "data" / "cluster").mkdir(parents=True)
        os.chown(tmp_path / path, pwd.getpwnam("nobody").pw_uid, -1)
        user = "root" if path == "data" else os_account.NAME
        with pytest.raises(EmbeddedError, match=rf"{path} belongs to the user nobody, not to {user}; .*choose another"):
            postgres.start(tmp_path / "data")


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

    @AS_ROOT
    @pytest.mark.parametrize("user", ["nobody", os_account.NAME])
    def test_other_users_cannot_connect(self, tmp_path: Path, user: str) -> None:
        os_account.server_account()  # creates it
        with running_valkey(tmp_path / "data") as server:
            message = as_user(user, lambda: str(connect(server).ping()))
            assert message.startswith("ConnectionError") and "Permission denied" in message
