"""All processes of the service on one machine: started in order, watched, started again, stopped in order."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Self

import httpx
from pydantic import ValidationError

from service.core.settings import Settings, what_is_wrong
from service.db import migrate
from service.db.session import connect
from service.jobs.queue import Queue
from service.jobs.registry import queues
from service.local import Announce, EmbeddedError, guard, lock, postgres, valkey
from service.local.doctor import machine
from service.observability.health import checks
from service.observability.health.findings import look

_RESTARTS, _RESTART_WINDOW = 5, 600.0
"""A part that ends more often than this, in this many seconds, has something wrong that restarting does not mend."""
_READY_SECONDS = 60.0
_GRACE = 15.0
_RECORDING_SECONDS = 30.0
"""What a draining worker may need beside its `drain_seconds`: to end a child that does not listen, and to record."""

Process = subprocess.Popen[bytes]


@dataclass
class _Part:
    """One process, and how to start it: `start` announces the process and returns when it can be relied on."""

    name: str
    stage: int
    stop: signal.Signals
    grace: float
    start: Callable[[Announce], object]
    log_file: Path
    sockets: Path | None = None
    process: Process | None = None
    ends: list[float] = field(default_factory=list)


class Stack:
    """PostgreSQL, Valkey, API and workers on the files in `data`. Use it as a context manager. Raises EmbeddedError.

    `port` 0 takes a free one. Servers that G2RPO_DATABASE_URL and G2RPO_BROKER_URL name are used instead of our own. A
    part is started again up to `restarts` times in ten minutes.
    """

    def __init__(
        self,
        data: Path,
        port: int = 8000,
        report: Callable[[str], None] = lambda _: None,
        restarts: int = _RESTARTS,
    ) -> None:
        self.data = data.absolute()
        self.logs = self.data / "logs"
        self._report, self._port, self._restarts = report, port, restarts
        self._environment = {**os.environ, "G2RPO_DATA_DIR": str(self.data)}
        self._parts: list[_Part] = []
        self._lock = threading.RLock()
        self._stopping = False
        self._guard: Process | None = None
        self._held: int | None = None
        self._listening: socket.socket | None = None
        self.failure: EmbeddedError | None = None
        """Why the stack gave up, when it did."""
        self.ended = threading.Event()
        """Set when it gave up, or was stopped."""

    @property
    def url(self) -> str:
        """Where the API answers."""
        assert self._listening is not None
        return f"http://127.0.0.1:{self._listening.getsockname()[1]}"

    @property
    def processes(self) -> dict[str, int]:
        """Process ids by the part's name."""
        with self._lock:
            running = {part.name: part.process.pid for part in self._parts if part.process}
        return running | ({"guard": self._guard.pid} if self._guard else {})

    def __enter__(self) -> Self:
        try:
            self._start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def stop(self) -> None:
        """End every part in order: workers, API, Valkey, PostgreSQL. A second call does nothing."""
        with self._lock:
            if self._stopping:
                return
            self._stopping = True
            running = self._running()
        self.ended.set()
        guard.stop(running)
        for part in self._parts:
            if part.process is not None:
                part.process.wait()
        if self._listening is not None:
            self._listening.close()
        if self._guard is not None:
            self._parts.clear()
            self._tell_guard()
            with contextlib.suppress(BrokenPipeError):
                self._guard.communicate()
        if self._held is not None:
            os.close(self._held)

    def _start(self) -> None:
        least = self._settings().min_free_bytes
        _demand("the data directory", lambda: machine.data_directory(self.data, least))
        _demand("the catalog", machine.catalog)
        self.data.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.logs.mkdir(exist_ok=True)
        self._held = lock.hold(self.data)
        self._listening = _listen(self._port)
        self._start_guard()
        if "G2RPO_DATABASE_URL" not in os.environ:
            self._report("starting PostgreSQL")
            self._add("postgres", 3, signal.SIGINT, self._start_postgres, sockets=self.data / "postgres" / "sockets")
        if "G2RPO_BROKER_URL" not in os.environ:
            self._report("starting Valkey")
            self._add("valkey", 2, signal.SIGTERM, self._start_valkey, sockets=self.data / "valkey" / "sockets")
        self._report("preparing the database")
        self._prepare()
        self._report("starting the API and the workers")
        self._add("api", 1, signal.SIGTERM, self._start_api)
        for queue in queues():
            self._add_worker(queue)
        self._wait_until_ready()

    def _settings(self, **found: str) -> Settings:
        try:
            return Settings(data_dir=self.data, **found)  # type: ignore[arg-type]
        except ValidationError as error:
            raise EmbeddedError(f"a setting cannot be used: {what_is_wrong(error)}") from error

    def _prepare(self) -> None:
        """Bring the database to the newest schema, and refuse to start on what would keep the API from being ready."""
        url = self._environment["G2RPO_DATABASE_URL"]
        settings = self._settings(database_url=url, broker_url=self._environment["G2RPO_BROKER_URL"])
        try:
            database, queue = connect(settings), Queue(settings)
        except (ValueError, ImportError) as error:
            raise EmbeddedError(f"G2RPO_STORAGE_URL names no place for artifacts: {error}") from error
        try:
            _demand("the database", lambda: checks.database(database))
            _demand("the database", lambda: checks.upgradable(database))
            try:
                migrate.upgrade(url)
            except Exception as error:
                reason = str(error).strip().splitlines()[0]
                raise EmbeddedError(f"the database could not be brought to the newest schema: {reason}") from error
            _demand("the broker", lambda: checks.broker(queue))
            _demand("the artifact store", lambda: checks.storage(database), "mend G2RPO_STORAGE_URL")
        finally:
            queue.close()
            database.close()

    def _start_postgres(self, announce: Announce) -> None:
        server = postgres.start(self.data / "postgres", log_file=self.logs / "postgres.log", announce=announce)
        self._environment["G2RPO_DATABASE_URL"] = server.url

    def _start_valkey(self, announce: Announce) -> None:
        server = valkey.start(self.data / "valkey", log_file=self.logs / "valkey.log", announce=announce)
        self._environment["G2RPO_BROKER_URL"] = server.url

    def _start_api(self, announce: Announce) -> None:
        assert self._listening is not None
        descriptor = self._listening.fileno()
        # It computes nothing: no threads beside the training child's.
        environment = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
        announce(self._python("api", ["service.local.api", str(descriptor)], environment, descriptor))

    def _add_worker(self, queue: str) -> None:
        arguments = ["celery", "--app", "worker.celery_app", "worker", "--queues", queue, "--hostname", f"{queue}@%h"]
        arguments += ["--loglevel", "INFO", "--without-mingle", "--without-gossip", "--without-heartbeat"]
        name = f"worker-{queue}"
        environment: dict[str, str] = {}
        if queue == "generate":
            # It draws in its own process, beside a training child that may want every core.
            environment["OMP_NUM_THREADS"] = str(max(1, len(os.sched_getaffinity(0)) // 2))
        self._add(
            name,
            0,
            signal.SIGTERM,
            lambda announce: announce(self._python(name, arguments, environment)),
            Settings().drain_seconds + _RECORDING_SECONDS,
        )

    def _python(self, name: str, module: list[str], environment: dict[str, str], *descriptors: int) -> Process:
        with self._log_file(name).open("ab") as log:
            return subprocess.Popen(
                [sys.executable, "-P", "-m", *module],
                env={**self._environment, **environment},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                pass_fds=descriptors,
            )

    def _log_file(self, name: str) -> Path:
        return self.logs / f"{name}.log"

    def _add(
        self,
        name: str,
        stage: int,
        stop: signal.Signals,
        start: Callable[[Announce], object],
        grace: float = _GRACE,
        sockets: Path | None = None,
    ) -> None:
        """Start a part, and from then on start it again whenever it ends by itself."""
        part = _Part(name, stage, stop, grace, start, self._log_file(name), sockets)
        self._parts.append(part)
        self._launch(part)
        threading.Thread(target=self._watch, args=(part,), name=f"watch-{name}", daemon=True).start()

    def _launch(self, part: _Part) -> None:
        def announce(process: Process) -> None:
            with self._lock:
                part.process = process
                self._tell_guard()
                if self._stopping:
                    process.kill()

        part.start(announce)

    def _watch(self, part: _Part) -> None:
        refused = ""
        while True:
            code = part.process.wait() if part.process is not None else None
            what = refused or f"ended with status {code}"
            with self._lock:
                if self._stopping:
                    return None
                part.process = None
                self._tell_guard()
            now = time.monotonic()
            part.ends = [*(end for end in part.ends if now - end < _RESTART_WINDOW), now]
            if len(part.ends) > self._restarts:
                return self._give_up(f"{part.name} ended {len(part.ends)} times; at last it {what}", part)
            self._report(f"{part.name} {what}; starting it again (its log: {part.log_file})")
            if self.ended.wait(0.2 * min(len(part.ends), _RESTARTS)):
                return None
            refused = ""
            try:
                self._launch(part)
            except (EmbeddedError, OSError) as error:  # it may pass: a full disk, or helpers that are slow to let go
                refused = f"could not be started: {error}"

    def _give_up(self, reason: str, part: _Part) -> None:
        self.failure = EmbeddedError(f"{reason}; its log {part.log_file} ends with:\n{_tail(part.log_file)}")
        self.ended.set()

    def _running(self) -> list[guard.Part]:
        return [
            guard.Part(
                pid=part.process.pid,
                stage=part.stage,
                signal=part.stop,
                grace=part.grace,
                sockets=str(part.sockets) if part.sockets else None,
            )
            for part in self._parts
            if part.process is not None
        ]

    def _start_guard(self) -> None:
        assert self._held is not None
        with self._log_file("guard").open("ab") as log:
            self._guard = subprocess.Popen(
                [sys.executable, "-P", "-m", "service.local.guard"],
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=log,
                start_new_session=True,
                # The data directory stays locked until the guard has ended what a killed `up` left running.
                pass_fds=(self._held,),
            )

    def _tell_guard(self) -> None:
        assert self._guard is not None and self._guard.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self._guard.stdin.write(json.dumps(self._running()).encode() + b"\n")
            self._guard.stdin.flush()

    def _wait_until_ready(self) -> None:
        deadline = time.monotonic() + _READY_SECONDS
        answer = "no answer"
        with httpx.Client(base_url=self.url, trust_env=False, timeout=5.0) as client:
            while not self.ended.is_set() and time.monotonic() < deadline:
                try:
                    response = client.get("/readyz")
                    if response.is_success:
                        return
                    answer = response.json()["detail"]
                except (httpx.HTTPError, ValueError, LookupError) as error:
                    answer = repr(error)
                self.ended.wait(0.05)
        raise self.failure or EmbeddedError(f"the API is not ready: {answer}; the logs are in {self.logs}")


def _demand(what: str, check: Callable[[], str], hint: str = "") -> None:
    finding = look(what, check, hint)
    if not finding.ok:
        raise EmbeddedError(f"{what}: {finding.detail.removeprefix(f'{what}: ').rstrip('.')}; {finding.hint}")


def _listen(port: int) -> socket.socket:
    """The API's listening socket. It is opened here, so that an API that is started again keeps its port."""
    listening = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind(("127.0.0.1", port))
    except OSError as error:
        listening.close()
        hint = "choose another with --port, or 0 for a free one"
        raise EmbeddedError(f"port {port} of 127.0.0.1 cannot be had ({error.strerror}); {hint}") from error
    listening.listen(128)
    return listening


def _tail(path: Path, size: int = 2000) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")[-size:].strip()
    except FileNotFoundError:
        return "(nothing)"
