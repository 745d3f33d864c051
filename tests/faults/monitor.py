"""Observations during the campaign: the state of jobs, their running processes, and when a job makes progress again."""

import threading
import time
from collections import defaultdict
from dataclasses import dataclass, field
from typing import Any

import psutil
from sqlalchemy import text
from sqlalchemy.exc import SQLAlchemyError

from service.contracts.status import HELD, INACTIVE
from service.jobs.registry import JOBS
from tests.faults.system import Child, System

_EVERY_SECONDS = 0.1
_PROCESSES_EVERY_SECONDS = 0.3
_JOBS = text(
    " UNION ALL ".join(
        f"SELECT '{kind}' AS kind, id::text AS id, status, attempt, progress FROM {job.FOLDER}"
        for kind, job in JOBS.items()
    )
)


@dataclass(frozen=True)
class Standing:
    """The state of a job."""

    kind: str
    status: str
    attempt: int
    progress: Any


@dataclass
class Injected:
    """An injected fault, the affected jobs and, for each, the seconds until progress."""

    kind: str
    aim: str
    at: float
    met: dict[str, Standing]
    new_attempt: bool
    """Whether only another attempt can make progress."""
    recovered: dict[str, float] = field(default_factory=dict)


class Monitor:
    """A thread that polls the database and the processes of the machine several times a second."""

    def __init__(self, system: System) -> None:
        self._system = system
        self._engine = system.engine()
        self._lock = threading.Lock()
        self._ended = threading.Event()
        self.jobs: dict[str, Standing] = {}
        self.faults: list[Injected] = []
        self.children: dict[tuple[int, float], Child] = {}
        """Every observed training or evaluation process."""
        self.processes: set[tuple[int, float]] = set()
        """Every observed process of the system, by id and start time."""
        self.together_seconds = 0.0
        """Total seconds with two processes of one job, one of them superseded."""
        self.twins: list[str] = []
        """Two live processes of the same attempt, which is always an error."""
        self._thread = threading.Thread(target=self._watch, name="monitor", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        self._ended.set()
        self._thread.join()
        self._engine.dispose()

    def held(self, *kinds: str) -> dict[str, Standing]:
        """Jobs with a lease at the last poll, of the kinds or of all kinds."""
        with self._lock:
            return {id: job for id, job in self.jobs.items() if job.status in HELD and (not kinds or job.kind in kinds)}

    def waiting(self) -> int:
        """Jobs that are not idle."""
        with self._lock:
            return sum(job.status not in INACTIVE for job in self.jobs.values())

    def injected(self, kind: str, aim: str, met: dict[str, Standing], new_attempt: bool) -> None:
        """Record a fault and watch until it is resolved."""
        with self._lock:
            self.faults.append(Injected(kind, aim, time.monotonic(), met, new_attempt))

    def _watch(self) -> None:
        looked = time.monotonic()
        while not self._ended.wait(_EVERY_SECONDS):
            passed = time.monotonic() - looked
            if passed >= _PROCESSES_EVERY_SECONDS:
                looked += passed
                self._look_at_processes(passed)
            try:
                with self._engine.connect() as connection:
                    found = {
                        row.id: Standing(row.kind, row.status, row.attempt, row.progress)
                        for row in connection.execute(_JOBS)
                    }
            except SQLAlchemyError:
                continue
            with self._lock:
                self.jobs = found
                for fault in self.faults:
                    self._resolve(fault, found)

    def _look_at_processes(self, passed: float) -> None:
        by_job: dict[str, list[Child]] = defaultdict(list)
        try:
            for one in (*self._system.trainings(), *self._system.evaluations()):
                self.children[(one.pid, one.began)] = one
                by_job[one.job].append(one)
            self.processes |= self._system.everything()
        except psutil.Error:
            return
        stack_worker = self._system.stack.processes.get("worker-train")
        if stack_worker is not None:
            self._system.workers_by_label["stack"].add(stack_worker)
        for job, together in by_job.items():
            attempts, groups = {one.attempt for one in together}, {one.group for one in together}
            if len(groups) > 1:
                self.together_seconds += passed
            if len(attempts) < len(groups):
                self.twins.append(f"job {job}: processes {[(one.pid, one.attempt) for one in together]}")

    def _resolve(self, fault: Injected, jobs: dict[str, Standing]) -> None:
        for id, before in fault.met.items():
            if id not in fault.recovered and _got_on(before, jobs.get(id), fault.new_attempt):
                fault.recovered[id] = time.monotonic() - fault.at


def _got_on(before: Standing, now: Standing | None, new_attempt: bool) -> bool:
    if now is None or now.status in INACTIVE:
        return True
    if now.status not in HELD or now.progress is None:
        return False
    if now.attempt > before.attempt:
        return True
    return not new_attempt and now.progress != before.progress
