"""Run all processes of the service on one machine: start and stop them in order, and restart those that end."""

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
from typing import Self

import httpx
from pydantic import ValidationError

from service.core.settings import Settings, what_is_wrong
from service.db import migrate
from service.db.session import connect
from service.jobs.queue import Queue
from service.jobs.registry import queues
from service.local import EmbeddedError, postgres, valkey, watchdog
from service.local.doctor import machine
from service.local.server import Announce, Process, launch, locked, tail
from service.observability import checks

_RESTARTS, _RESTART_WINDOW = 5, 600.0
"""Maximum number of restarts within a number of seconds. A component that ends more often has a permanent problem."""
_READY_SECONDS = 60.0
_GRACE = 15.0
_RECORDING_SECONDS = 30.0
"""Extra time after `drain_seconds` for a draining worker to kill its job's process and record the outcome."""


@dataclass
class _Component:
    """A process of the stack. `start` launches and announces the process, and returns when it is usable."""

    name: str
    stage: int
    start: Callable[[Announce], object]
    stop: signal.Signals = signal.SIGTERM
    grace: float = _GRACE
    data: Path | None = None
    process: Process | None = None
    ends: list[float] = field(default_factory=list)


class Stack:
    """Context manager that runs PostgreSQL, Valkey, the API and the workers on `data`. Raises EmbeddedError.

    If `port` is 0, a free port is chosen. If G2RPO_DATABASE_URL or G2RPO_BROKER_URL is set, that server is used instead
    of the embedded server. A component is restarted up to `restarts` times in ten minutes. `report` is called with
    progress messages.
    """

    def __init__(
        self, data: Path, port: int = 8000, report: Callable[[str], None] = lambda _: None, restarts: int = _RESTARTS
    ) -> None:
        self.data = data.absolute()
        self.logs = self.data / "logs"
        self._report, self._port, self._restarts = report, port, restarts
        self._environment = {**os.environ, "G2RPO_DATA_DIR": str(self.data)}
        self._components: list[_Component] = []
        self._lock = threading.RLock()
        self._resources = contextlib.ExitStack()
        self._stopping = False
        self._watchdog: Process | None = None
        self._listening: socket.socket | None = None
        self.failure: EmbeddedError | None = None
        """The reason why the stack stopped unexpectedly, or None."""
        self.ended = threading.Event()
        """Set when the stack has failed or is being stopped."""

    @property
    def url(self) -> str:
        """The address of the API."""
        assert self._listening is not None
        return f"http://127.0.0.1:{self._listening.getsockname()[1]}"

    @property
    def processes(self) -> dict[str, int]:
        """The process id of each running component, by component name."""
        with self._lock:
            running = {component.name: component.process.pid for component in self._components if component.process}
        return running | ({"watchdog": self._watchdog.pid} if self._watchdog else {})

    def __enter__(self) -> Self:
        try:
            self._start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        """Stop every component in order: workers, API, Valkey, PostgreSQL. Calling it again has no effect."""
        self._resources.close()

    def _start(self) -> None:
        min_free_bytes = self._settings().min_free_bytes
        _require("data directory", lambda: machine.data_directory(self.data, min_free_bytes))
        _require("catalog", machine.catalog)
        self.data.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.logs.mkdir(exist_ok=True)
        lock = self._resources.enter_context(locked(self.data))
        self._start_watchdog(lock)
        self._listening = self._resources.enter_context(_listen(self._port))
        self._resources.callback(self._stop_components)
        if "G2RPO_DATABASE_URL" not in os.environ:
            self._report("starting PostgreSQL")
            data = self.data / "postgres"
            self._add(_Component("postgres", 3, self._start_postgres, stop=signal.SIGINT, data=data))
        if "G2RPO_BROKER_URL" not in os.environ:
            self._report("starting Valkey")
            self._add(_Component("valkey", 2, self._start_valkey, data=self.data / "valkey"))
        self._report("preparing the database")
        self._prepare()
        self._report("starting the API and the workers")
        self._add(_Component("api", 1, self._start_api))
        for queue in queues():
            self._add_worker(queue)
        self._wait_until_ready()

    def _settings(self, **urls: str) -> Settings:
        try:
            return Settings(data_dir=self.data, **urls)  # type: ignore[arg-type]
        except ValidationError as error:
            raise EmbeddedError(f"Invalid settings: {what_is_wrong(error)}") from error

    def _prepare(self) -> None:
        """Upgrade the database to the newest schema. Raises EmbeddedError if a server or the store is unusable."""
        url = self._environment["G2RPO_DATABASE_URL"]
        settings = self._settings(database_url=url, broker_url=self._environment["G2RPO_BROKER_URL"])
        with contextlib.ExitStack() as connections:
            try:
                database = connections.enter_context(contextlib.closing(connect(settings)))
                queue = connections.enter_context(contextlib.closing(Queue(settings)))
            except (ValueError, ImportError) as error:
                raise EmbeddedError(f"Invalid G2RPO_STORAGE_URL: {error}") from error
            _require("database", lambda: checks.database(database))
            _require("database", lambda: checks.upgradable(database))
            try:
                migrate.upgrade(url)
            except Exception as error:
                reason = str(error).strip().splitlines()[0]
                raise EmbeddedError(f"The database could not be upgraded to the newest schema: {reason}") from error
            _require("broker", lambda: checks.broker(queue))
            _require("artifact store", lambda: checks.storage(database), "fix G2RPO_STORAGE_URL")

    def _start_postgres(self, announce: Announce) -> None:
        server = postgres.start(self.data / "postgres", log_file=self._log_file("postgres"), announce=announce)
        self._environment["G2RPO_DATABASE_URL"] = server.url

    def _start_valkey(self, announce: Announce) -> None:
        server = valkey.start(self.data / "valkey", log_file=self._log_file("valkey"), announce=announce)
        self._environment["G2RPO_BROKER_URL"] = server.url

    def _start_api(self, announce: Announce) -> None:
        assert self._listening is not None
        descriptor = self._listening.fileno()
        # The API does no heavy computation and must not start threads that compete with the training process.
        environment = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
        announce(self._python("api", ["service.local.api", str(descriptor)], environment, descriptor))

    def _add_worker(self, queue: str) -> None:
        arguments = ["celery", "--app", "worker.celery_app", "worker", "--queues", queue, "--hostname", f"{queue}@%h"]
        arguments += ["--loglevel", "INFO", "--without-mingle", "--without-gossip", "--without-heartbeat"]
        name = f"worker-{queue}"
        environment: dict[str, str] = {}
        if queue == "generate":
            # This worker generates images in its own process, next to a training process that may use every core.
            environment["OMP_NUM_THREADS"] = str(max(1, len(os.sched_getaffinity(0)) // 2))
        grace = Settings().drain_seconds + _RECORDING_SECONDS
        self._add(
            _Component(name, 0, lambda announce: announce(self._python(name, arguments, environment)), grace=grace)
        )

    def _python(self, name: str, module: list[str], environment: dict[str, str], *descriptors: int) -> Process:
        argv = [sys.executable, "-P", "-m", *module]
        return launch(argv, self._log_file(name), *descriptors, env={**self._environment, **environment})

    def _log_file(self, name: str) -> Path:
        return self.logs / f"{name}.log"

    def _add(self, component: _Component) -> None:
        """Start a component, and restart it whenever it ends unexpectedly."""
        self._components.append(component)
        self._launch(component)
        threading.Thread(target=self._watch, args=(component,), name=f"watch-{component.name}", daemon=True).start()

    def _launch(self, component: _Component) -> None:
        def announce(process: Process) -> None:
            with self._lock:
                component.process = process
                self._notify_watchdog()
                if self._stopping:
                    process.kill()

        component.start(announce)

    def _watch(self, component: _Component) -> None:
        refused, log_file = "", self._log_file(component.name)
        while True:
            code = component.process.wait() if component.process is not None else None
            reason = refused or f"ended with status {code}"
            with self._lock:
                if self._stopping:
                    return
                component.process = None
                self._notify_watchdog()
            now = time.monotonic()
            component.ends = [*(end for end in component.ends if now - end < _RESTART_WINDOW), now]
            if len(component.ends) > self._restarts:
                message = f"{component.name} ended {len(component.ends)} times; the last time it {reason}"
                self.failure = EmbeddedError(f"{message}; its log {log_file} ends with:\n{tail(log_file)}")
                self.ended.set()
                return
            self._report(f"{component.name} {reason}; restarting it (its log: {log_file})")
            if self.ended.wait(0.2 * min(len(component.ends), _RESTARTS)):
                return
            refused = ""
            try:
                self._launch(component)
            except (EmbeddedError, OSError) as error:  # may be temporary, e.g. a full disk or a held lock
                refused = f"could not be started: {error}"

    def _running(self) -> list[watchdog.Component]:
        return [
            watchdog.Component(
                pid=component.process.pid,
                stage=component.stage,
                signal=component.stop,
                grace=component.grace,
                data=str(component.data) if component.data else None,
            )
            for component in self._components
            if component.process is not None
        ]

    def _stop_components(self) -> None:
        with self._lock:
            self._stopping = True
            running = self._running()
        self.ended.set()
        watchdog.stop(running)
        for component in self._components:
            if component.process is not None:
                component.process.wait()
        self._components.clear()

    def _start_watchdog(self, lock: int) -> None:
        # The data directory stays locked until the watchdog has stopped all processes of a killed `up`.
        argv = [sys.executable, "-P", "-m", "service.local.watchdog"]
        self._watchdog = launch(argv, self._log_file("watchdog"), lock, stdin=subprocess.PIPE)
        self._resources.callback(self._stop_watchdog)

    def _stop_watchdog(self) -> None:
        assert self._watchdog is not None
        self._notify_watchdog()
        with contextlib.suppress(BrokenPipeError):
            self._watchdog.communicate()

    def _notify_watchdog(self) -> None:
        assert self._watchdog is not None and self._watchdog.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self._watchdog.stdin.write(json.dumps(self._running()).encode() + b"\n")
            self._watchdog.stdin.flush()

    def _wait_until_ready(self) -> None:
        deadline = time.monotonic() + _READY_SECONDS
        reason = "no response"
        with httpx.Client(base_url=self.url, trust_env=False, timeout=5.0) as client:
            while not self.ended.is_set() and time.monotonic() < deadline:
                try:
                    response = client.get("/readyz")
                    if response.is_success:
                        return
                    reason = response.json()["detail"]
                except (httpx.HTTPError, ValueError, LookupError) as error:
                    reason = repr(error)
                self.ended.wait(0.05)
        raise self.failure or EmbeddedError(f"The API is not ready: {reason}; the logs are in {self.logs}")


def _require(name: str, check: Callable[[], str], hint: str = "") -> None:
    finding = checks.run(name, check, hint)
    if not finding.ok:
        raise EmbeddedError(f"{name}: {finding.detail.rstrip('.')}; {finding.hint}")


def _listen(port: int) -> socket.socket:
    """Open the API's listening socket, which stays open when the API is restarted. Raises EmbeddedError."""
    listening = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind(("127.0.0.1", port))
    except OSError as error:
        listening.close()
        hint = "choose another port with --port, or 0 for a free port"
        raise EmbeddedError(f"Port {port} of 127.0.0.1 is not available ({error.strerror}); {hint}") from error
    listening.listen(128)
    return listening
