"""Execution of jobs in a child process.

The supervisor prepares a directory, starts the process, ingests its events, and stops it on request.
"""

import contextlib
import math
import shutil
import threading
import time
import uuid
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

from sqlalchemy import select
from sqlalchemy.exc import SQLAlchemyError

from service.contracts.attempt_files import CONTROL_FILE, EVENTS_FILE, LOG_FILE, Control
from service.contracts.events import Failed, Finished
from service.contracts.runs import Limits
from service.contracts.status import INACTIVE
from service.db.models import SupervisedJob
from service.db.session import Database
from worker.jobs.attempt import Attempt
from worker.jobs.claim import Claim, JobType, LeaseLost
from worker.jobs.ingest import Ingest
from worker.jobs.outcome import Outcome, Stop, classify, oom_kills, over_memory_limit, stuck_for
from worker.jobs.process import Command, Process
from worker.monitoring import devices

TERMINATION_SECONDS = 10.0
"""Seconds between SIGTERM and SIGKILL."""
_STOP_PRIORITY: tuple[Stop, ...] = ("cancel", "drain", "pause", "budget")
"""Reasons to stop in order of precedence. If there are several, the first determines the outcome."""


class SupervisedJobType(JobType, ABC):
    """Base class of job types whose jobs run in a child process. Tests replace `program`."""

    program: Sequence[str]
    model: ClassVar[type[SupervisedJob]]
    ingest: ClassVar[type[Ingest[Any]]]
    """Class that ingests the files of an attempt."""
    stored: ClassVar[tuple[str, ...]]
    """Subdirectories of an attempt's directory that can be removed after the attempt has been ingested."""

    def __init__(self, program: Sequence[str] | None = None) -> None:
        if program is not None:
            self.program = program

    def limits(self, row: Any) -> Limits:
        """Return the job's time limits."""
        return Limits()

    @abstractmethod
    def prepare(self, database: Database, claim: Claim, row: Any, directory: Path) -> Command:
        """Write the process's input to `directory`, and return the command that starts the process."""


class Supervisor:
    """Runs one attempt in a child process."""

    def __init__(self, attempt: Attempt, job_type: SupervisedJobType) -> None:
        self._attempt, self._job_type = attempt, job_type
        self._database, self._claim = attempt.database, attempt.claim
        self._settings = self._database.settings
        root = self._settings.data_dir.absolute() / "work" / job_type.model.FOLDER
        self._job_directory = root / str(self._claim.id)
        self._directory = self._job_directory / f"attempt-{self._claim.attempt}"
        self._wake = threading.Event()
        self._process: Process | None = None
        self._aborted = False
        self._all_read = False
        """Whether everything that the process wrote is in the database and in the store."""
        self._stop: Stop | None = None
        self._control: Control | None = None
        self._stop_deadline = math.inf
        """Monotonic time at which a process that ignores a stop request is terminated."""
        attempt.lease.on_lost = self.abort

    def abort(self) -> None:
        """Kill the process immediately, or prevent it from starting."""
        self._aborted = True
        if self._process is not None:
            self._process.close()
        self._wake.set()

    def clean_up(self, outcome: Outcome) -> None:
        """Remove the local files that are no longer needed if the job has ended or is paused.

        Log and events are kept.
        """
        if outcome.status not in INACTIVE or not self._all_read:
            return
        for number in range(1, self._claim.attempt + 1):  # if the job was resumed, the next attempt may already be here
            for name in self._job_type.stored:
                shutil.rmtree(self._job_directory / f"attempt-{number}" / name, ignore_errors=True)

    def run(self) -> Outcome:
        """Recover earlier attempts, then run this attempt.

        Raises LeaseLost, AttemptEnded, and errors that are not retried or persist.
        """
        attempt, database, claim = self._attempt, self._database, self._claim
        earlier = attempt.retry(self._recover_earlier_attempts)
        if earlier is not None:
            self._all_read = True
            return earlier
        attempt.retry(attempt.check_losses)
        row = attempt.retry(self._row)
        self._create_directory()
        command = attempt.retry(self._job_type.prepare, database, claim, row, self._directory)
        stop, _ = attempt.retry(self._requests, False)  # fetching a checkpoint may have taken long
        if stop is not None:
            return classify(None, 0, stop=stop, out_of_memory=False, log_tail="")
        ingest = attempt.retry(self._job_type.ingest, database, claim, self._directory)
        kills = oom_kills()
        niceness = self._settings.job_niceness
        process = self._process = Process(command, self._directory / LOG_FILE, self._wake, niceness)
        attempt.log.info("job.started", pid=process.pid)
        with ThreadPoolExecutor(1, "ingest") as reader:
            try:
                if self._aborted:
                    raise LeaseLost("the lease was lost before the process was started")
                stopped = self._watch(process, ingest, reader, self._job_type.limits(row), row.seconds_used)
            finally:
                process.terminate(0)
        attempt.retry(ingest.drain)
        self._all_read = True
        if stopped and ingest.ending is None:
            return stopped(ingest.log.tail())
        assert process.returncode is not None
        out_of_memory = oom_kills() > kills
        tail = ingest.log.tail()
        return classify(ingest.ending, process.returncode, stop=self._stop, out_of_memory=out_of_memory, log_tail=tail)

    def _row(self) -> SupervisedJob:
        with self._database.transaction() as session:
            return session.get_one(self._job_type.model, self._claim.id)

    def _recover_earlier_attempts(self) -> Outcome | None:
        """Ingest the unread files of earlier attempts on this machine.

        Returns the outcome of the previous attempt if that attempt had ended the job before its worker was lost,
        otherwise None. The outcomes of older attempts are ignored, because later attempts continued the job.
        """
        job, attempts = self._job_type.model, self._job_type.model.ATTEMPTS
        own = (attempts.job_id == self._claim.id, attempts.number < self._claim.attempt)
        with self._database.transaction() as session:
            resumed = session.scalars(select(job.resumed_attempt).where(job.id == self._claim.id)).one()
            numbers = session.scalars(select(attempts.number).where(*own).order_by(attempts.number)).all()
        outcome = None
        for number in numbers:
            directory = self._job_directory / f"attempt-{number}"
            if not directory.is_dir():
                continue
            ingest = self._job_type.ingest(self._database, self._claim, directory, number)
            ingest.drain()
            counts = number == self._claim.attempt - 1 and number > resumed
            if counts and ingest.ending is not None and not _paused_on_request(ingest.ending):
                outcome = classify(ingest.ending, 0, stop=None, out_of_memory=False, log_tail=ingest.log.tail())
        return outcome

    def _create_directory(self) -> None:
        """Create the attempt's directory.

        A directory of the same attempt, left from before a database restore, is renamed.
        """
        directory = self._directory
        if (directory / EVENTS_FILE).exists():
            directory.rename(directory.with_name(f"former-{directory.name}-{uuid.uuid4()}"))
        directory.mkdir(parents=True, exist_ok=True)

    def _watch(
        self, process: Process, ingest: Ingest[Any], reader: Executor, limits: Limits, used: float
    ) -> Callable[[str], Outcome] | None:
        """Wait until the process has exited, and forward requests to it.

        If the process was terminated because it was stuck or used too much memory, returns a function of the end of
        the log that returns the outcome. Events are ingested in another thread, because storing a checkpoint may take
        minutes, during which requests must still be handled.
        """
        memory = devices.memory_limit(self._settings.worker_memory_bytes)
        timeout = limits.progress_timeout_seconds or self._settings.progress_timeout_seconds
        budget = min(limits.wall_clock_seconds or math.inf, self._settings.max_run_seconds) - used
        written, heartbeat = 0, time.monotonic()
        reading: Future[None] | None = None
        while not self._wake.wait(self._attempt.poll_seconds):
            if reading is None or reading.done():
                reading = reader.submit(self._read, ingest)
            try:
                self._forward_requests(process, ingest, time.monotonic() - self._claim.taken_at > budget)
            except (SQLAlchemyError, OSError) as error:
                self._attempt.log.warning("job.request_not_forwarded", error=str(error).splitlines()[0])
            with contextlib.suppress(OSError):  # other code that uses the disk reports the failure
                ingest.log.trim()
            if (used_memory := devices.used_memory(process.pid)) > memory:
                process.terminate(0)
                return partial(over_memory_limit, used_memory, memory)
            now = time.monotonic()
            if (size := ingest.written()) != written:
                written, heartbeat = size, now
            # Updates and checkpoints are not interrupted, because their results would be lost or incomplete.
            busy = ingest.phase in ("update", "checkpoint") and now - heartbeat < timeout
            if now > self._stop_deadline and not busy:
                process.terminate(TERMINATION_SECONDS)
            elif self._stop is None and now - heartbeat > timeout:
                process.terminate(TERMINATION_SECONDS)
                return partial(stuck_for, timeout)
        self._attempt.lease.check()
        return None

    def _read(self, ingest: Ingest[Any]) -> None:
        """Ingest what the process has written. After a failure, the process continues, and its files are read later."""
        try:
            ingest.drain()
        except LeaseLost:
            return  # the lease's threads handle it
        except (SQLAlchemyError, OSError) as error:
            self._attempt.log.warning("job.not_recorded", error=str(error).splitlines()[0])

    def _requests(self, over_budget: bool) -> tuple[Stop | None, int]:
        """Return the reason to stop or None, and the number of the unanswered checkpoint request or 0."""
        request = self._attempt.stop_request()
        reasons = {
            request.stop,
            "drain" if self._attempt.stopping.is_set() else None,
            "budget" if over_budget else None,
        }
        return next((stop for stop in _STOP_PRIORITY if stop in reasons), None), request.checkpoint

    def _forward_requests(self, process: Process, ingest: Ingest[Any], over_budget: bool) -> None:
        """Write new requests to the control file. A process that is still loading is terminated instead of stopped."""
        stop, checkpoint = self._requests(over_budget)
        if stop is None:
            if checkpoint:
                self._write_control(Control(action="checkpoint", request=checkpoint))
            return
        if stop != self._stop:
            self._stop = stop
            self._attempt.log.info("job.stopping", reason=stop)
            grace = self._settings.cancel_grace_seconds + 2 * ingest.step_seconds
            if stop == "drain":
                grace = self._settings.drain_seconds
            self._stop_deadline = time.monotonic() + grace
            if not ingest.started:
                process.terminate(TERMINATION_SECONDS)  # it has nothing to save and does not poll the control file
        self._write_control(Control(action="cancel" if stop == "cancel" else "pause", request=checkpoint))

    def _write_control(self, control: Control) -> None:
        if control == self._control:
            return
        file = self._directory / CONTROL_FILE
        fresh = file.with_name(f"{CONTROL_FILE}.new")
        fresh.write_text(control.model_dump_json(), encoding="utf-8")
        fresh.replace(file)
        self._control = control


def _paused_on_request(ending: Finished | Failed) -> bool:
    """Whether the process paused because of a stop request, so that the job can continue."""
    return isinstance(ending, Finished) and ending.outcome == "paused" and ending.cause is None
