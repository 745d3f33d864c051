"""The tested service: the embedded stack and an additional training worker on this or a simulated second machine."""

import contextlib
import os
import random
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import psutil
from sqlalchemy import Engine, create_engine

from service.core.settings import Settings
from service.local import postgres
from service.local.stack import Stack

LEASE_SECONDS = 4.0
SETTINGS = {
    "G2RPO_LEASE_SECONDS": str(LEASE_SECONDS),
    "G2RPO_RENEW_SECONDS": "1",
    "G2RPO_RECONCILE_SECONDS": "1",
    "G2RPO_WORKER_TIMEOUT_SECONDS": "10",
    "G2RPO_COLLECT_SECONDS": "5",
    "G2RPO_DRAIN_SECONDS": "20",
    "G2RPO_MAX_ATTEMPTS": "1000000",
    "OMP_NUM_THREADS": "1",  # the references are computed with the same number
}
_EMBEDDED_ONLY = ("G2RPO_DATABASE_URL", "G2RPO_BROKER_URL", "G2RPO_ADMIN_KEY", "G2RPO_API_KEY", "G2RPO_CATALOG")
_TRAIN, _EVALUATE, _STARTER = (f"worker.entrypoints.{name}" for name in ("train", "evaluate", "ranks"))


@dataclass(frozen=True)
class Child:
    """A process that trains or evaluates, identified by its id and start time."""

    pid: int
    began: float
    job: str
    attempt: int
    directory: Path
    group: int
    """The process group of all processes of an attempt. Ranks may run seconds longer than their parent."""

    def alive(self) -> bool:
        """Whether the process is running; a zombie is not running."""
        return alive(self.pid, self.began)

    def ranks(self) -> list[int]:
        """The processes that compute: the process itself, or its children in a run with several processes."""
        with contextlib.suppress(psutil.NoSuchProcess):
            process = psutil.Process(self.pid)
            if _STARTER in process.cmdline() and (children := process.children()):
                return [child.pid for child in children]
        return [self.pid]


def alive(pid: int, began: float) -> bool:
    """Whether the process with this id and start time is still running."""
    try:
        process = psutil.Process(pid)
        return process.create_time() == began and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


class System:
    """A context manager that runs the system in `directory`."""

    def __init__(self, directory: Path, rng: random.Random) -> None:
        self.directory = directory
        self._rng = rng
        self.artifacts, self.store = directory / "artifacts", directory / "store"
        self.machines = (directory / "near", directory / "far")
        """Data directories of two machines: the stack, and a machine that shares its database, broker and store."""
        self.workers_by_label: dict[str, set[int]] = {"stack": set()}
        """Process ids of training workers by the label of their database connections."""
        self.second: SecondWorker | None = None
        self._others = {child.pid for child in psutil.Process().children()}
        """Earlier children of this process, for example servers of other tests."""

    @property
    def database_url(self) -> str:
        url = postgres.running_url(self.machines[0] / "postgres")
        assert url is not None
        return url

    @property
    def broker_socket(self) -> str:
        return str((self.machines[0] / "valkey" / "sockets").readlink() / "valkey.sock")

    def settings(self, **changed: Any) -> Settings:
        """Settings on this system's servers and store."""
        return Settings(
            database_url=self.database_url,
            broker_url=f"redis+socket://{self.broker_socket}?virtual_host=0",
            storage_url=f"file://{self.store}",
            data_dir=self.machines[0],
            **changed,
        )

    def __enter__(self) -> Self:
        self.directory.mkdir(parents=True, exist_ok=True)
        self.artifacts.mkdir()
        self.store.symlink_to(self.artifacts)
        with self._environment("stack"):
            self.stack = Stack(self.machines[0], port=0, restarts=1_000_000)
            self.stack.__enter__()
        self.second = SecondWorker(self, self._rng)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.second is not None:
            self.second.stop()
        self.stack.stop()

    def environment(self, label: str) -> dict[str, str]:
        """The environment of a component; `label` is the name of its PostgreSQL connections."""
        inherited = {name: value for name, value in os.environ.items() if name not in _EMBEDDED_ONLY}
        own = {"G2RPO_STORAGE_URL": f"file://{self.store}", "PGOPTIONS": f"-c campaign.worker={label}"}
        return {**inherited, **SETTINGS, **own}

    @contextlib.contextmanager
    def _environment(self, label: str) -> Iterator[None]:
        """Set `environment` in this process while the stack starts, which reads it once."""
        before = dict(os.environ)
        wanted = self.environment(label)
        os.environ.clear()
        os.environ.update(wanted)
        try:
            yield
        finally:
            os.environ.clear()
            os.environ.update(before)

    def engine(self) -> Engine:
        """Connections for observation."""
        return create_engine(self.database_url, pool_pre_ping=True, connect_args={"connect_timeout": 5})

    def workers(self) -> list[int]:
        """Process ids of the running training workers."""
        found = [self.stack.processes.get("worker-train"), self.second.pid if self.second else None]
        return [pid for pid in found if pid is not None]

    def trainings(self) -> list[Child]:
        """The running training processes of this system."""
        return self._children(_TRAIN)

    def evaluations(self) -> list[Child]:
        """The running evaluation processes of this system."""
        return self._children(_EVALUATE)

    def _children(self, program: str) -> list[Child]:
        found: dict[int, tuple[int, Child]] = {}
        for process in psutil.process_iter(["ppid", "cmdline", "create_time", "status"]):
            words = process.info["cmdline"] or []
            if program not in words or "--out" not in words or process.info["status"] == psutil.STATUS_ZOMBIE:
                continue
            out = Path(words[words.index("--out") + 1])
            if out.is_relative_to(self.directory) and out.name.startswith("attempt-"):
                number = int(out.name.removeprefix("attempt-"))
                with contextlib.suppress(ProcessLookupError):
                    group = os.getpgid(process.pid)
                    child = Child(process.pid, process.info["create_time"], out.parent.name, number, out, group)
                    found[process.pid] = (process.info["ppid"], child)
        # A child that has not executed its program yet still has its parent's arguments.
        return [child for parent, child in found.values() if parent not in found]

    def everything(self) -> set[tuple[int, float]]:
        """All processes started for this system, by id and start time."""
        found: set[tuple[int, float]] = set()
        for child in psutil.Process().children():
            if child.pid in self._others:
                continue
            with contextlib.suppress(psutil.NoSuchProcess):
                found |= {(one.pid, one.create_time()) for one in (child, *child.children(recursive=True))}
        return found


@dataclass
class SecondWorker:
    """A training worker in addition to the stack's. It restarts when it ends, on a random machine."""

    system: System
    rng: random.Random
    pid: int | None = None
    _process: "subprocess.Popen[bytes] | None" = None
    _stopping: threading.Event = field(default_factory=threading.Event)
    _starts: int = 0

    def __post_init__(self) -> None:
        self._thread = threading.Thread(target=self._keep, name="second-worker", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Stop the worker permanently."""
        self._stopping.set()
        if self._process is not None:
            self._process.terminate()
        self._thread.join(60)
        if self._process is not None and self._process.poll() is None:
            self._process.kill()
            self._process.wait()

    def _keep(self) -> None:
        while not self._stopping.is_set():
            self._process = self._start()
            self.pid = self._process.pid
            if self._stopping.is_set():
                self._process.terminate()
            self._process.wait()
            self.pid = None
            self._stopping.wait(0.2)

    def _start(self) -> "subprocess.Popen[bytes]":
        self._starts += 1
        label = f"second-{self._starts}"
        system = self.system
        arguments = ["-m", "celery", "--app", "worker.celery_app", "worker", "--queues", "train"]
        arguments += ["--hostname", f"{label}@%h", "--loglevel", "INFO"]
        arguments += ["--without-mingle", "--without-gossip", "--without-heartbeat"]
        environment = {
            **system.environment(label),
            "G2RPO_DATA_DIR": str(self.rng.choice(system.machines)),
            "G2RPO_DATABASE_URL": system.database_url,
            "G2RPO_BROKER_URL": f"redis+socket://{system.broker_socket}?virtual_host=0",
        }
        with (system.stack.logs / "worker-second.log").open("ab") as log:
            process = subprocess.Popen(
                [sys.executable, "-P", *arguments],
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        system.workers_by_label[label] = {process.pid}
        return process
