"""The containers' commands, run without containers: installation, start, health check and stop."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from service.core.settings import Settings
from service.db.session import connect
from worker.monitoring.healthcheck import is_alive

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def installed(dockerfiles: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The unpacked wheel, built from the files in the service image."""
    source, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("installed")
    for name in dockerfiles["service"].sources():
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(ROOT / name, source / name)
    pip = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--no-index"]
    subprocess.run([*pip, "--wheel-dir", str(source), str(source)], check=True, timeout=120)
    (wheel,) = source.glob("*.whl")
    with zipfile.ZipFile(wheel) as packed:
        packed.extractall(out)
    return out


@pytest.fixture
def environment(new_database_url: str, broker_url: str, tmp_path: Path) -> dict[str, str]:
    """The environment that compose sets in a container."""
    given = {"G2RPO_DATABASE_URL": new_database_url, "G2RPO_BROKER_URL": broker_url, "G2RPO_DATA_DIR": str(tmp_path)}
    return {**os.environ, **given, "OMP_NUM_THREADS": "1"}


@pytest.fixture
def start(environment: dict[str, str], tmp_path: Path) -> Iterator[Callable[[list[str]], subprocess.Popen[bytes]]]:
    """Starts a container's command as a separate process, and ends it with the test."""
    started: list[subprocess.Popen[bytes]] = []

    def run(command: list[str]) -> subprocess.Popen[bytes]:
        assert command[0] == "python"
        process = subprocess.Popen([sys.executable, *command[1:]], env=environment, cwd=tmp_path)
        started.append(process)
        return process

    yield run
    for process in started:
        process.kill()
        process.wait()


def test_the_image_contains_the_migrations(
    compose: dict[str, Any], installed: Path, empty_database_url: str, tmp_path: Path
) -> None:
    command = compose["services"]["migrate"]["command"]
    environment = {**os.environ, "PYTHONPATH": str(installed), "G2RPO_DATABASE_URL": empty_database_url}
    for _ in range(2):  # the schema is migrated at every start
        subprocess.run([sys.executable, *command[1:]], env=environment, cwd=tmp_path, check=True, timeout=60)
    found = "import migrations, service.app, sys; print(migrations.__file__, service.__file__, 'torch' in sys.modules)"
    shown = subprocess.run(
        [sys.executable, "-P", "-c", found], env=environment, cwd=tmp_path, check=True, capture_output=True, text=True
    )
    where, app, torch = shown.stdout.split()
    assert Path(where).is_relative_to(installed) and Path(app).is_relative_to(installed) and torch == "False"


def test_api_starts_becomes_healthy_and_stops(
    dockerfiles: Any, start: Any, environment: dict[str, str], eventually: Callable[[Callable[[], object]], None]
) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    command = [
        word.replace("8000", port).replace("0.0.0.0", "127.0.0.1") for word in dockerfiles["service"].command("CMD")
    ]
    check = [word.replace("8000", port) for word in dockerfiles["service"].command("HEALTHCHECK")]
    assert not _healthy(check, environment)
    api = start(command)
    # Each check starts a process, so wait until the port is open.
    eventually(lambda: _open(int(port)))
    eventually(lambda: _healthy(check, environment))
    api.send_signal(signal.SIGTERM)
    assert api.wait(30) == -signal.SIGTERM  # uvicorn raises the signal again after an orderly shutdown


def test_worker_starts_becomes_healthy_and_drains(
    compose: dict[str, Any],
    dockerfiles: Any,
    start: Any,
    environment: dict[str, str],
    eventually: Callable[[Callable[[], object]], None],
    tmp_path: Path,
) -> None:
    check = dockerfiles["worker"].command("HEALTHCHECK")
    assert not _healthy(check, environment)
    entrypoint = dockerfiles["worker"].command("ENTRYPOINT")
    worker = start([*entrypoint, *compose["services"]["worker-generate"]["command"]])
    database = connect(Settings(database_url=environment["G2RPO_DATABASE_URL"], data_dir=tmp_path))
    eventually(lambda: is_alive(database, socket.gethostname()))  # each check starts a process
    database.close()
    eventually(lambda: _healthy(check, environment))
    worker.send_signal(signal.SIGTERM)
    assert worker.wait(60) == 0
    assert not _healthy(check, environment)


def _open(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def _healthy(check: list[str], environment: dict[str, str]) -> bool:
    assert check[0] == "python"
    ended = subprocess.run([sys.executable, *check[1:]], env=environment, capture_output=True, timeout=60)
    return ended.returncode == 0
