"""The kinds of faults, and their injection into the running system."""

import contextlib
import json
import os
import random
import signal
import threading
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import psutil
import redis

from service.contracts.attempt_files import EVENTS_FILE
from service.jobs.queue import Queue
from service.jobs.registry import JOBS, queues
from service.local.watchdog import is_alive as pid_alive
from tests.faults.monitor import Monitor, Standing
from tests.faults.system import LEASE_SECONDS, Child, System, alive

PHASES = ("loading", "evaluation", "rollout", "reward", "update", "checkpoint")
_AIM_SECONDS = 15.0
_BEYOND_THE_LEASE = (LEASE_SECONDS + 2.0, LEASE_SECONDS + 10.0)
_STORE_SECONDS = 4.0
_STOP_SECONDS = 5.0


@dataclass
class FaultContext:
    """The system and state that a fault uses."""

    system: System
    monitor: Monitor
    rng: random.Random
    ended: threading.Event = field(default_factory=threading.Event)
    repairs: list[threading.Thread] = field(default_factory=list)
    store: threading.Lock = field(default_factory=threading.Lock)

    def aim(self) -> tuple[Child, str] | None:
        """A live training process when it enters a random phase, or at any time if it does not enter the phase."""
        phase = self.rng.choice(PHASES)
        deadline = time.monotonic() + _AIM_SECONDS
        children: list[Child] = []
        seen = {child.directory: len(_phases(child)) for child in self.system.trainings()}
        looked = 0.0
        while time.monotonic() < deadline and not self.ended.wait(0.003):
            if time.monotonic() - looked > 0.3:
                children, looked = self.system.trainings(), time.monotonic()
            for child in children:
                entered = _phases(child)
                if phase in entered[seen.get(child.directory, 0) :] and child.alive():
                    return child, phase
                seen[child.directory] = len(entered)
        living = [child for child in self.system.trainings() if child.alive()]
        return (self.rng.choice(living), "any moment") if living else None

    def later(self, seconds: float, work: Callable[[], object]) -> None:
        """Schedule `work` after some seconds."""
        thread = threading.Timer(seconds, work)
        thread.start()
        self.repairs.append(thread)

    def repair(self) -> None:
        """Wait until all scheduled repairs are complete."""
        for thread in self.repairs:
            thread.join()

    def freeze(self, pids: list[int]) -> None:
        """Suspend processes, and continue them some seconds after a lease has expired."""
        seconds = self.rng.uniform(*_BEYOND_THE_LEASE)
        for pid in pids:
            _signal(pid, signal.SIGSTOP)
        self.later(seconds, lambda: [_signal(pid, signal.SIGCONT) for pid in pids])

    def valkey(self) -> "redis.Redis[bytes]":
        return redis.Redis(unix_socket_path=self.system.broker_socket, socket_timeout=2)


@dataclass(frozen=True)
class Effect:
    """The effect of a fault: affected jobs by id, and whether only another attempt makes progress."""

    met: dict[str, Standing]
    aim: str = ""
    new_attempt: bool = False


@dataclass(frozen=True)
class Kind:
    """A kind of fault. `do` returns None if it had no target."""

    name: str
    kill: bool
    do: Callable[[FaultContext], Effect | None]
    weight: int = 1


KINDS: dict[str, Kind] = {}


def kind(
    name: str, *, kill: bool = False, weight: int = 1
) -> Callable[[Callable[[FaultContext], Effect | None]], None]:
    """Register a kind of fault."""

    def register(do: Callable[[FaultContext], Effect | None]) -> None:
        KINDS[name] = Kind(name, kill, do, weight)

    return register


def _met(context: FaultContext, child: Child) -> dict[str, Standing]:
    standing = context.monitor.jobs.get(child.job)
    return {child.job: standing} if standing and standing.attempt == child.attempt else {}


@kind("training process (a rank) killed", kill=True, weight=3)
def _kill_child(context: FaultContext) -> Effect | None:
    if (aimed := context.aim()) is None:
        return None
    child, phase = aimed
    met = _met(context, child)
    victim = context.rng.choice(child.ranks())
    return Effect(met, phase, new_attempt=True) if _signal(victim, signal.SIGKILL) else None


@kind("training process's whole group killed", kill=True, weight=2)
def _kill_group(context: FaultContext) -> Effect | None:
    if (aimed := context.aim()) is None:
        return None
    child, phase = aimed
    met = _met(context, child)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child.pid, signal.SIGKILL)
        return Effect(met, phase, new_attempt=True)
    return None


@kind("training process frozen beyond the lease")
def _freeze_child(context: FaultContext) -> Effect | None:
    if (aimed := context.aim()) is None:
        return None
    child, phase = aimed
    context.freeze([child.pid])
    return Effect(_met(context, child), phase)


@kind("training worker frozen beyond the lease, its process runs on")
def _freeze_worker(context: FaultContext) -> Effect | None:
    return _to_supervisor(context, lambda worker, _: context.freeze([worker]))


@kind("training worker and its process frozen beyond the lease")
def _freeze_both(context: FaultContext) -> Effect | None:
    return _to_supervisor(context, lambda worker, child: context.freeze([worker, child.pid]))


@kind("training worker (the supervisor) killed", kill=True, weight=3)
def _kill_worker(context: FaultContext) -> Effect | None:
    return _to_supervisor(context, lambda worker, _: _signal(worker, signal.SIGKILL))


@kind("training worker terminated (SIGTERM)")
def _drain_worker(context: FaultContext) -> Effect | None:
    return _to_supervisor(context, lambda worker, _: _signal(worker, signal.SIGTERM))


def _to_supervisor(context: FaultContext, do: Callable[[int, Child], object]) -> Effect | None:
    if (aimed := context.aim()) is None:
        return None
    child, phase = aimed
    try:
        worker = psutil.Process(child.pid).ppid()
    except psutil.NoSuchProcess:
        return None
    if worker not in context.system.workers():
        return None
    met = _met(context, child)
    do(worker, child)
    return Effect(met, phase, new_attempt=True)


@kind("generating worker killed", kill=True)
def _kill_generator(context: FaultContext) -> Effect | None:
    _wait_for(context, lambda: context.monitor.held("generation", "score"))
    return _to_part(context, "worker-generate", signal.SIGKILL, "generation", "score")


@kind("evaluating process killed", kill=True)
def _kill_evaluation(context: FaultContext) -> Effect | None:
    if not _wait_for(context, context.system.evaluations):
        return None
    context.ended.wait(context.rng.uniform(0, 8))
    for child in context.system.evaluations():
        met = _met(context, child)
        if met and _signal(child.pid, signal.SIGKILL):
            return Effect(met, new_attempt=True)
    return None


@kind("evaluating worker killed", kill=True)
def _kill_evaluator(context: FaultContext) -> Effect | None:
    _wait_for(context, context.system.evaluations)
    return _to_part(context, "worker-evaluate", signal.SIGKILL, "evaluation")


def _wait_for(context: FaultContext, there: Callable[[], object]) -> bool:
    deadline = time.monotonic() + _AIM_SECONDS
    while not there():
        if time.monotonic() > deadline:
            return False
        context.ended.wait(0.05)
    return True


@kind("API killed", kill=True)
def _kill_api(context: FaultContext) -> Effect | None:
    return _to_part(context, "api", signal.SIGKILL, "run")


@kind("Valkey killed", kill=True)
def _kill_valkey(context: FaultContext) -> Effect | None:
    return _to_part(context, "valkey", signal.SIGKILL)


@kind("Valkey frozen beyond the lease")
def _freeze_valkey(context: FaultContext) -> Effect | None:
    pid = context.system.stack.processes.get("valkey")
    if pid is None:
        return None
    context.freeze([pid])
    return Effect(context.monitor.held())


@kind("Valkey emptied")
def _empty_valkey(context: FaultContext) -> Effect | None:
    return _to_valkey(context, lambda valkey: valkey.flushall())


@kind("wake-ups deleted")
def _delete_messages(context: FaultContext) -> Effect | None:
    return _to_valkey(context, lambda valkey: valkey.delete(*queues()))


@kind("wake-ups doubled many times")
def _double_messages(context: FaultContext) -> Effect | None:
    queue = Queue(context.system.settings())
    try:
        sent = [queue.send(job, uuid.uuid4()) for job in JOBS.values() for _ in range(20)]
    finally:
        queue.close()
    return Effect(context.monitor.held()) if any(sent) else None


@kind("PostgreSQL restarted (fast)", kill=True)
def _restart_postgres(context: FaultContext) -> Effect | None:
    pid = context.system.stack.processes.get("postgres")
    if pid is not None:
        began = psutil.Process(pid).create_time()
        # Like a service manager: a server that gets a signal during its recovery may not end.
        context.later(_STOP_SECONDS, lambda: alive(pid, began) and _signal(pid, signal.SIGKILL))
    return _to_part(context, "postgres", signal.SIGINT)


@kind("PostgreSQL killed (crash recovery)", kill=True)
def _kill_postgres(context: FaultContext) -> Effect | None:
    return _to_part(context, "postgres", signal.SIGKILL)


@kind("a PostgreSQL connection's process killed (all reset)", kill=True)
def _kill_backend(context: FaultContext) -> Effect | None:
    backends = [
        one for one in _postgres_processes(context) if "idle" in _title(one) or "postgres postgres" in _title(one)
    ]
    if not backends:
        return None
    met = context.monitor.held()
    return Effect(met) if _signal(context.rng.choice(backends).pid, signal.SIGKILL) else None


@kind("PostgreSQL frozen beyond the lease")
def _freeze_postgres(context: FaultContext) -> Effect | None:
    pids = [one.pid for one in _postgres_processes(context)]
    postmaster = context.system.stack.processes.get("postgres")
    if postmaster is None:
        return None
    met = context.monitor.held()
    context.freeze([postmaster, *pids])
    return Effect(met)


@kind("artifact store refuses for seconds")
def _break_store(context: FaultContext) -> Effect | None:
    # An atomically replaced link: even root can create or read nothing below a regular file.
    if not context.store.acquire(blocking=False):
        return None
    refusing = context.system.directory / "refusing"
    refusing.touch()
    _point(context.system.store, refusing)

    def restore() -> None:
        _point(context.system.store, context.system.artifacts)
        context.store.release()

    context.later(_STORE_SECONDS, restore)
    return Effect(context.monitor.held())


def _point(link: Path, target: Path) -> None:
    fresh = link.with_name("store.new")
    fresh.symlink_to(target)
    fresh.replace(link)


def _to_part(context: FaultContext, name: str, number: signal.Signals, *kinds: str) -> Effect | None:
    pid = context.system.stack.processes.get(name)
    met = context.monitor.held(*kinds)
    if pid is None or not _signal(pid, number):
        return None
    return Effect(met, new_attempt=name in ("worker-generate", "worker-evaluate"))


def _to_valkey(context: FaultContext, do: "Callable[[redis.Redis[bytes]], object]") -> Effect | None:
    try:
        with contextlib.closing(context.valkey()) as valkey:
            do(valkey)
    except redis.RedisError:
        return None
    return Effect(context.monitor.held())


def _postgres_processes(context: FaultContext) -> list[psutil.Process]:
    postmaster = context.system.stack.processes.get("postgres")
    with contextlib.suppress(psutil.NoSuchProcess):
        return psutil.Process(postmaster).children() if postmaster is not None else []
    return []


def _title(process: psutil.Process) -> str:
    with contextlib.suppress(psutil.NoSuchProcess):
        return " ".join(process.cmdline())
    return ""


def _phases(child: Child) -> list[str]:
    """The phases that a training process has reported, in order."""
    try:
        lines = (child.directory / EVENTS_FILE).read_bytes().splitlines()
    except FileNotFoundError:
        return []
    found = []
    for line in lines:
        if b'"type":"progress"' in line:
            with contextlib.suppress(ValueError):
                found.append(json.loads(line)["phase"])
    return found


def _signal(pid: int, number: signal.Signals) -> bool:
    """Send a signal and return False if the process has ended."""
    if not pid_alive(pid):
        return False
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return False
    return True
