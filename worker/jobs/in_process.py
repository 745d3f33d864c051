"""Execution of jobs in the worker's process, which keeps models loaded between jobs."""

import contextlib
import os
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import Any

from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session

from service.contracts.events import Phase, Progress
from service.contracts.status import JobStatus
from service.db import events
from worker.engine.heartbeat import PROGRESS_SECONDS, periodic_heartbeat
from worker.engine.inference.model_cache import MODEL_CACHE
from worker.jobs.attempt import Attempt, AttemptEnded
from worker.jobs.claim import JobType, LeaseLost, held, move
from worker.jobs.outcome import Outcome, over_memory_limit, stuck_for
from worker.monitoring import devices

_REQUEST_SECONDS = 1.0
"""Interval at which cancellation requests are read while models are loading."""
_WATCH_SECONDS = 0.25
"""Interval at which memory and progress are checked. The kernel provides up to about a gigabyte in this time."""
STUCK_EXIT = 70
"""Exit status of a worker whose job was stuck or used too much memory."""


class InProcessJobType(JobType, ABC):
    """Base class of job types whose jobs run in the worker's process."""

    @abstractmethod
    def work(self, execution: "InProcess") -> None:
        """Execute the job. Implementations must call `execution.heartbeat` often."""


class InProcess:
    """Runs one attempt in the calling thread.

    A second thread exits the whole process if the job makes no progress or uses too much memory, because a thread in a
    device call or a tensor operation cannot be stopped otherwise. The service manager then restarts the worker.
    """

    def __init__(
        self, attempt: Attempt, job_type: InProcessJobType, progress_seconds: float = PROGRESS_SECONDS
    ) -> None:
        self.attempt, self._job_type, self._progress_seconds = attempt, job_type, progress_seconds
        self.database, self.claim = attempt.database, attempt.claim
        self._heartbeat_at = time.monotonic()
        self._finished = threading.Event()

    def run(self) -> Outcome:
        """Execute the job. Raises LeaseLost, AttemptEnded, and any exception that the job raises."""
        threading.Thread(target=self._watch, name="job-watch", daemon=True).start()
        try:
            with MODEL_CACHE.in_use():
                self.attempt.check_losses()
                self.start()
                self._job_type.work(self)
        finally:
            self._finished.set()
        return Outcome(JobStatus.SUCCEEDED)

    def abort(self) -> None:
        """Do nothing, because `heartbeat` raises LeaseLost after the lease is lost."""

    def clean_up(self, outcome: Outcome) -> None:
        """Do nothing, because the job removes its own files."""

    def start(self) -> None:
        """Set the job's status to `running`.

        Raises AttemptEnded if the job was cancelled before, and LeaseLost if the claim is no longer valid.
        """
        self.check_cancelled()
        move(self.database, self.claim, JobStatus.RUNNING)

    def touch(self) -> None:
        """Record progress, so that the job is not considered stuck."""
        self._heartbeat_at = time.monotonic()

    def heartbeat(self) -> None:
        """Record progress and check whether to continue.

        Raises AttemptEnded if a cancellation was recorded or the worker is shutting down, and LeaseLost if the lease is
        lost.
        """
        self.touch()
        if self.attempt.recorded.is_set():
            raise AttemptEnded(Outcome(JobStatus.CANCELLED))
        self.attempt.lease.check()
        if self.attempt.stopping.is_set():
            raise AttemptEnded(Outcome(JobStatus.INTERRUPTED))

    def check_cancelled(self) -> None:
        """Raise AttemptEnded if a stop was requested, and LeaseLost if the claim is no longer valid."""
        if self.attempt.stop_request().stop is not None:
            raise AttemptEnded(Outcome(JobStatus.CANCELLED))

    @contextlib.contextmanager
    def loading(self) -> Iterator[None]:
        """While the block runs, report progress automatically, and record a cancellation without waiting for the block.

        At the end of the block, raises the same exceptions as `heartbeat`.
        """
        with periodic_heartbeat(self.touch, self._progress_seconds), self.cancellable():
            yield

    @contextlib.contextmanager
    def cancellable(self) -> Iterator[None]:
        """While the block runs, record a cancellation without waiting for the block.

        At the end of the block, raises the same exceptions as `heartbeat`.
        """
        with periodic_heartbeat(self._record_cancelled, _REQUEST_SECONDS):
            yield
        self.heartbeat()

    def record_progress(self, session: Session, step: int, max_steps: int, phase: Phase) -> Any:
        """Write the progress, notify clients, and return the job's locked row.

        Raises LeaseLost if the claim is no longer valid.
        """
        row = held(session, self.claim)
        progress = Progress(step=step, max_steps=max_steps, phase=phase)
        row.progress = progress.model_dump(mode="json", exclude={"type"})
        events.notify_job(session, self.claim.kind, self.claim.id)
        return row

    def _record_cancelled(self) -> None:
        """Record the end of a cancelled job immediately, because its work cannot be interrupted."""
        if self.attempt.recorded.is_set():
            return
        with contextlib.suppress(SQLAlchemyError, LeaseLost):  # the main thread handles these errors if they persist
            if self.attempt.stop_request().stop is not None:
                move(self.database, self.claim, JobStatus.CANCELLED)
                self.attempt.lease.end()
                self.attempt.recorded.set()

    def _watch(self) -> None:
        settings = self.database.settings
        timeout, memory = settings.progress_timeout_seconds, devices.memory_limit(settings.worker_memory_bytes)
        while not self._finished.wait(_WATCH_SECONDS):
            if (used := devices.used_memory()) > memory:
                self._exit(over_memory_limit(used, memory))
            if time.monotonic() - self._heartbeat_at >= timeout:
                self._exit(stuck_for(timeout))

    def _exit(self, outcome: Outcome) -> None:
        """Record the outcome and end the process."""
        self.attempt.log.error("job.stopped", error=outcome.error)
        with contextlib.suppress(SQLAlchemyError, LeaseLost):
            move(self.database, self.claim, outcome.status, outcome.error)
        os._exit(STUCK_EXIT)
