"""`g2rpo up` starts all processes, ends them after every kind of exit, and continues from its data."""

import contextlib
import fcntl
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest
from sqlalchemy import create_engine, text
from typer.testing import CliRunner, Result

from service.cli import app
from service.client import Client

pytestmark = pytest.mark.long

Eventually = Callable[[Callable[[], object]], None]


@dataclass
class Up:
    """A running `g2rpo up`, with its data directory and URL."""

    process: "subprocess.Popen[str]"
    data: Path
    url: str

    def descendants(self) -> list[psutil.Process]:
        return psutil.Process(self.process.pid).children(recursive=True)

    def part(self, *words: str) -> psutil.Process:
        """The child process whose command line contains all these words."""
        [found] = [one for one in self.descendants() if all(word in " ".join(one.cmdline()) for word in words)]
        return found


def running(processes: list[psutil.Process]) -> list[psutil.Process]:
    """The running processes, without zombies."""
    left = []
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            if process.is_running() and process.status() != psutil.STATUS_ZOMBIE:
                left.append(process)
    return left


@pytest.fixture
def up(tmp_path: Path) -> Iterator[Callable[..., Up]]:
    """Starts `g2rpo up` and returns when it is ready."""
    started: list[subprocess.Popen[str]] = []
    # Embedded servers, independent of the servers of the tests.
    own = {name: value for name, value in os.environ.items() if name not in ("G2RPO_DATABASE_URL", "G2RPO_BROKER_URL")}

    def start(data: Path = tmp_path / "data", port: int = 0) -> Up:
        process = subprocess.Popen(
            [sys.executable, "-m", "service.cli", "up", "--port", str(port), "--data", str(data)],
            stderr=subprocess.PIPE,
            text=True,
            env=own,
        )
        started.append(process)
        assert process.stderr is not None
        printed = []
        for line in process.stderr:
            printed.append(line)
            if line.startswith("ready at "):
                return Up(process, data, line.split()[2])
        raise AssertionError("".join(printed))

    yield start
    for process in started:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
        process.communicate()


@pytest.fixture
def occupied_ports() -> Iterator[None]:
    """The default ports of PostgreSQL and Redis, in use by another socket."""
    with contextlib.ExitStack() as stack:
        for port in (5432, 6379):
            taken = stack.enter_context(socket.socket())
            with contextlib.suppress(OSError):  # already in use, which is equivalent
                taken.bind(("127.0.0.1", port))
                taken.listen()
        yield


@pytest.mark.timeout(600)
def test_up_continues_after_a_kill_or_ctrl_c_and_leaves_no_processes(
    up: Callable[..., Up], occupied_ports: None, eventually: Eventually
) -> None:
    """One test: each of the three starts of all processes takes ten seconds of processor time."""
    first = up()
    with Client(first.url) as client:
        run = client.create_run({"name": "kept", "model": "shapes-flux"})
        client.cancel(run.id)
        eventually(lambda: {worker.queue for worker in client.catalog().workers} == {"train", "generate", "evaluate"})

    # Killed components are restarted, and another `up` is rejected in the meantime.
    api, server = first.part("service.local.api"), first.part("bin/postgres")
    api.kill()
    server.kill()
    assert "in use by another process" in refused_up(first.data).stderr
    eventually(lambda: running([api, server]) == [] and names(first) == ["kept"])

    everything = first.descendants()
    assert len(everything) > 5
    first.process.kill()
    first.process.wait()
    eventually(lambda: running(everything) == [])

    second = up()
    assert names(second) == ["kept"]
    everything = second.descendants()
    assert len(everything) > 5
    second.process.send_signal(signal.SIGINT)
    second.process.send_signal(signal.SIGINT)
    assert second.process.wait(60) == 0
    assert running(everything) == []
    assert list(second.data.glob("*/sockets")) == []

    third = up()
    assert names(third) == ["kept"]

    # If a restart fails, it is retried.
    server, api = third.part("bin/postgres"), third.part("service.local.api")
    with (third.data / "postgres" / "lock").open("rb+") as held:
        server.kill()
        fcntl.flock(held, fcntl.LOCK_EX)  # as held by a helper of the killed server that ends slowly
        wait_for_output(third, "postgres could not be started")

    log = third.data / "logs" / "api.log"
    log.rename(log.with_suffix(".kept"))
    log.mkdir()  # as on a disk on which no file can be created
    api.kill()
    wait_for_output(third, "api could not be started")
    log.rmdir()
    eventually(lambda: names(third) == ["kept"])


def names(up: Up) -> list[str] | None:
    """The names of the runs, or None while API or database are unavailable."""
    with contextlib.suppress(Exception), Client(up.url) as client:
        return [run.name for run in client.runs()]
    return None


def wait_for_output(up: Up, message: str) -> None:
    """Wait until the process has printed `words`. Raises AssertionError if it ends before."""
    assert up.process.stderr is not None
    assert any(message in line for line in up.process.stderr), message


def refused_up(data: Path, port: int = 0, **environment: str) -> Result:
    """Run `g2rpo up` in this process with only these settings; it must fail."""
    others = {name: None for name in os.environ if name.startswith("G2RPO_")}
    arguments = ["up", "--port", str(port), "--data", str(data)]
    refused = CliRunner().invoke(app, arguments, env={**others, "COLUMNS": "1000", **environment})
    assert refused.exit_code == 2, refused.output
    assert refused.exception is None or isinstance(refused.exception, SystemExit)
    assert "Traceback" not in refused.output
    return refused


def test_an_occupied_port_is_an_error_that_names_it(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        arguments = ["up", "--port", str(port), "--data", str(tmp_path / "data")]
        refused: Any = subprocess.run(
            [sys.executable, "-m", "service.cli", *arguments],
            capture_output=True,
            text=True,
            env={**os.environ, "COLUMNS": "1000"},
        )

    assert refused.returncode == 2
    assert f"Port {port} of 127.0.0.1" in refused.stderr
    assert "--port" in refused.stderr
    assert "Traceback" not in refused.stderr


@pytest.mark.parametrize(
    ("variable", "value", "messages"),
    [
        (
            "G2RPO_DATABASE_URL",
            "postgresql://u:hunter2@127.0.0.1:1/d",
            ["Connection refused", "start PostgreSQL"],
        ),
        ("G2RPO_DATABASE_URL", "mysql://u:hunter2@h/d", ["G2RPO_DATABASE_URL: the database must be PostgreSQL"]),
        ("G2RPO_BROKER_URL", "redis://:hunter2@127.0.0.1:1/0", ["broker: ", "start Valkey or Redis"]),
        ("G2RPO_STORAGE_URL", "file:///dev/null/store", ["artifact store: ", "fix G2RPO_STORAGE_URL"]),
        ("G2RPO_MIN_FREE_BYTES", str(2**60), ["disk nearly full: ", "free some space"]),
        ("G2RPO_CATALOG", "/nowhere.yaml", ["catalog: /nowhere.yaml", "No such file"]),
    ],
)
def test_problems_at_startup_are_named_with_a_fix(
    tmp_path: Path, variable: str, value: str, messages: list[str]
) -> None:
    refused = refused_up(tmp_path / "data", **{variable: value})
    assert all(message in refused.stderr for message in messages), refused.stderr
    assert "hunter2" not in refused.output


def test_a_database_of_a_newer_version_is_unchanged(tmp_path: Path, new_database_url: str, broker_url: str) -> None:
    engine = create_engine(new_database_url)
    with engine.begin() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    own = {"G2RPO_DATABASE_URL": new_database_url, "G2RPO_BROKER_URL": broker_url}
    refused = refused_up(tmp_path / "data", **own)
    with engine.begin() as connection:
        assert connection.scalar(text("SELECT version_num FROM alembic_version")) == "9999"
    engine.dispose()

    assert "the schema has revision 9999" in refused.stderr
    assert "a newer version of the service created it" in refused.stderr
