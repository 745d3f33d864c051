"""`g2rpo up` starts everything, ends everything however it is ended, and goes on from its data."""

import contextlib
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

from service.client import Client

Eventually = Callable[[Callable[[], object]], None]


@dataclass
class Up:
    """A running `g2rpo up`, and what it printed."""

    process: "subprocess.Popen[str]"
    data: Path
    url: str

    def descendants(self) -> list[psutil.Process]:
        return psutil.Process(self.process.pid).children(recursive=True)

    def part(self, *words: str) -> psutil.Process:
        """The child whose command line has all these words."""
        [found] = [one for one in self.descendants() if all(word in " ".join(one.cmdline()) for word in words)]
        return found


def running(processes: list[psutil.Process]) -> list[psutil.Process]:
    """Those that have not ended; a zombie has."""
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
    # Its own servers, whatever those of the tests are.
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
    """The usual ports of PostgreSQL and Redis, taken by somebody."""
    with contextlib.ExitStack() as stack:
        for port in (5432, 6379):
            taken = stack.enter_context(socket.socket())
            with contextlib.suppress(OSError):  # taken already: as good
                taken.bind(("127.0.0.1", port))
                taken.listen()
        yield


def test_ctrl_c_stops_everything_and_the_next_up_goes_on(
    up: Callable[..., Up], occupied_ports: None, eventually: Eventually
) -> None:
    first = up()
    with Client(first.url) as client:
        run = client.create_run({"name": "kept", "model": "shapes-flux"})
        client.cancel(run.id)
        eventually(lambda: {worker.queue for worker in client.catalog().workers} == {"train", "generate"})
    everything = first.descendants()
    assert len(everything) > 5

    first.process.send_signal(signal.SIGINT)
    first.process.send_signal(signal.SIGINT)
    assert first.process.wait(60) == 0
    assert running(everything) == []
    assert list(Path(first.data).glob("*/sockets")) == []

    with Client(up().url) as client:
        assert client.run(run.id).name == "kept"


def test_a_killed_up_leaves_nothing_behind(up: Callable[..., Up], eventually: Eventually) -> None:
    first = up()
    everything = first.descendants()

    first.process.kill()
    first.process.wait()

    eventually(lambda: running(everything) == [])
    assert up().url


def test_a_part_that_dies_is_started_again_and_a_second_up_is_refused(
    up: Callable[..., Up], eventually: Eventually
) -> None:
    first = up()
    api, server = first.part("service.embedded.api"), first.part("postgres", "cluster")
    api.kill()
    server.kill()

    second = subprocess.run(
        [sys.executable, "-m", "service.cli", "up", "--port", "0", "--data", str(first.data)],
        capture_output=True,
        text=True,
        env={**os.environ, "COLUMNS": "1000"},
    )

    assert second.returncode == 2
    assert "in use by another process" in second.stderr

    def answers() -> bool:
        with contextlib.suppress(Exception), Client(first.url) as client:
            return bool(client.catalog().models)
        return False

    eventually(lambda: running([api, server]) == [] and answers())


def test_a_port_that_is_taken_is_an_error_that_says_so(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        words = ["up", "--port", str(port), "--data", str(tmp_path / "data")]
        refused: Any = subprocess.run(
            [sys.executable, "-m", "service.cli", *words],
            capture_output=True,
            text=True,
            env={**os.environ, "COLUMNS": "1000"},
        )

    assert refused.returncode == 2
    assert f"port {port} of 127.0.0.1" in refused.stderr
    assert "--port" in refused.stderr
