"""Execution in the worker's process, with models that it keeps loaded between jobs."""

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
from worker.engine.inference.model_cache import MODEL_CACHE
from worker.engine.keepalive import PROGRESS_SECONDS, repeated
from worker.jobs.attempt import Attempt, AttemptEnded
from worker.jobs.claim import JobType, LeaseLost, held, move
from worker.jobs.outcome import Outcome, stuck_for

_REQUEST_SECONDS = 1.0
"""How often requests to cancel are read while models load."""
STUCK_EXIT = 70
"""Exit status of a worker whose job was stuck."""


class InProcessJobType(JobType, ABC):
    """A kind of jobs that run in the worker's process."""

    @abstractmethod
    def work(self, execution: "InProcess") -> None:
        """Do the job. Calls `execution.heartbeat` often."""


class InProcess:
    """Runs one attempt in this thread.

    A second thread ends the whole process if the job makes no progress, because a thread that hangs in the device
    cannot be stopped otherwise. The service manager restarts the worker.
    """

    def __init__(
        self, attempt: Attempt, job_type: InProcessJobType, progress_seconds: float = PROGRESS_SECONDS
    ) -> None:
        self.attempt, self._job_type, self._progress_seconds = attempt, job_type, progress_seconds
        self.database, self.claim = attempt.database, attempt.claim
        self._heartbeat_at = time.monotonic()
        self._finished = threading.Event()

    def run(self) -> Outcome:
        """Do the job. Raises LeaseLost, AttemptEnded, and what the job raises."""
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
        """Nothing: `heartbeat` raises once the lease is lost."""

    def clean_up(self, outcome: Outcome) -> None:
        """Nothing: the job removes its files itself."""

    def start(self) -> None:
        """Move the job to `running`. Raises AttemptEnded if it was cancelled before, and LeaseLost."""
        self.check_cancelled()
        move(self.database, self.claim, JobStatus.RUNNING)

    def touch(self) -> None:
        """Note progress for the detection of stuck jobs."""
        self._heartbeat_at = time.monotonic()

    def heartbeat(self) -> None:
        """Note progress. Raises LeaseLost, and AttemptEnded if the job was cancelled or the worker shuts down."""
        self.touch()
        if self.attempt.recorded.is_set():
            raise AttemptEnded(Outcome(JobStatus.CANCELLED))
        self.attempt.lease.check()
        if self.attempt.stopping.is_set():
            raise AttemptEnded(Outcome(JobStatus.INTERRUPTED))

    def check_cancelled(self) -> None:
        """Raise AttemptEnded if a stop was requested, and LeaseLost."""
        if self.attempt.stop_request().stop is not None:
            raise AttemptEnded(Outcome(JobStatus.CANCELLED))

    @contextlib.contextmanager
    def loading(self) -> Iterator[None]:
        """Within the block, silent work counts as progress, and a requested end is recorded without waiting for it.

        The end of the block raises like `heartbeat`.
        """
        with repeated(self.touch, self._progress_seconds), repeated(self._record_cancelled, _REQUEST_SECONDS):
            yield
        self.heartbeat()

    def record_progress(self, session: Session, step: int, max_steps: int, phase: Phase) -> Any:
        """Write the progress and notify; the job's locked row. Raises LeaseLost."""
        row = held(session, self.claim)
        progress = Progress(step=step, max_steps=max_steps, phase=phase)
        row.progress = progress.model_dump(mode="json", exclude={"type"})
        events.notify_job(session, self.claim.kind, self.claim.id)
        return row

    def _record_cancelled(self) -> None:
        """Record the end of a cancelled job: loading cannot be interrupted."""
        if self.attempt.recorded.is_set():
            return
        with contextlib.suppress(SQLAlchemyError, LeaseLost):  # the work itself meets these, unless they pass
            if self.attempt.stop_request().stop is not None:
                move(self.database, self.claim, JobStatus.CANCELLED)
                self.attempt.lease.end()
                self.attempt.recorded.set()

    def _watch(self) -> None:
        timeout = self.database.settings.progress_timeout_seconds
        while not self._finished.wait(max(0.05, self._heartbeat_at + timeout - time.monotonic())):
            if time.monotonic() - self._heartbeat_at < timeout:
                continue
            self.attempt.log.error("job.stuck", seconds=timeout)
            outcome = stuck_for(timeout)
            with contextlib.suppress(SQLAlchemyError, LeaseLost):
                move(self.database, self.claim, outcome.status, outcome.error)
            os._exit(STUCK_EXIT)
