"""One attempt at one run: prepare its directory, start the child, watch it, bring what it says into rows, end it."""

import contextlib
import math
import shutil
import threading
import time
from collections.abc import Callable
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from typing import Any, TypeVar, cast

import structlog
from sqlalchemy import select
from sqlalchemy.exc import InterfaceError, InternalError, OperationalError, SQLAlchemyError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from service.contracts.jobs import CONTROL_FILE, LOG_FILE, Control
from service.contracts.runs import Limits
from service.contracts.status import JobStatus
from service.db.artifacts import ArtifactDamaged
from service.db.models import SupervisedJob
from service.db.session import Database
from worker.jobs.artifact_transfer import PromptSetDamaged
from worker.jobs.attempt import finish_earlier_attempts, make_room
from worker.jobs.claim import Claim, LeaseLost, move, wish
from worker.jobs.ingest import Ingest
from worker.jobs.job_type import Work
from worker.jobs.lease import Lease
from worker.jobs.outcome import Outcome, Stop, classify, failed, oom_kills, stuck_for, too_often_lost
from worker.jobs.process import Child
from worker.monitoring.stats import STATS

log = structlog.get_logger()
T = TypeVar("T")

POLL_SECONDS = 1.0
_DATABASE_AWAY = (OperationalError, InterfaceError, InternalError, PoolTimeout)
"""The database is out of reach, or ended the transaction, which passes. Anything else would fail every time."""
TERMINATION_SECONDS = 10.0
"""How long a child gets between SIGTERM and SIGKILL."""
STORAGE_TRIES = 30
"""How often, a second apart, files are offered to, or asked of, a store or disk that refuses."""


def supervise(database: Database, claim: Claim, stopping: threading.Event, work: Work) -> None:
    """See a claimed job through to the end of this attempt. `stopping` asks to give it up for somebody else.

    Never raises for what a job, its child or another worker did; the job's row says how it ended.
    """
    supervisor = _Supervisor(database, claim, stopping, work)
    try:
        with Lease(database, claim, supervisor.kill) as lease:
            supervisor.work(lease)
        supervisor.forget_files()  # gigabytes, which take their time: the lease is no longer there to be renewed
    except LeaseLost as lost:
        log.warning("job.lost", **{claim.job.KIND: str(claim.id)}, attempt=claim.attempt, detail=str(lost))
    finally:
        supervisor.kill()


_RANK: tuple[Stop, ...] = ("cancel", "drain", "pause", "budget")
"""Of several reasons to stop, the first decides what becomes of the job."""


class _Supervisor:
    def __init__(self, database: Database, claim: Claim, stopping: threading.Event, work: Work) -> None:
        assert issubclass(claim.job, SupervisedJob)
        self._job: type[SupervisedJob] = claim.job
        self._database, self._claim, self._stopping, self._work = database, claim, stopping, work
        self._settings = database.settings
        self._place = self._settings.data_dir.absolute() / "work" / claim.job.FOLDER / str(claim.id)
        self._directory = self._place / f"attempt-{claim.attempt}"
        self._wake = threading.Event()
        self._child: Child | None = None
        self._killed = False
        self._drained = False
        """Whether everything the child wrote is in rows and in the store."""
        self._rests = False
        """Whether the job has come to rest, and no attempt follows by itself."""
        self._log_tail = ""
        self._stop: Stop | None = None
        self._asked: Control | None = None
        self._patience = math.inf
        """When a child that was asked to stop is ended, by the monotonic clock."""
        self._log = log.bind(**{claim.job.KIND: str(claim.id)}, attempt=claim.attempt)

    def kill(self) -> None:
        """End the child at once, and let none start: for a lost lease, and for leaving nothing behind."""
        self._killed = True
        if self._child is not None:
            self._child.close()
        self._wake.set()

    def work(self, lease: Lease) -> None:
        try:
            outcome = self._attempt(lease)
        except LeaseLost:
            raise
        except PromptSetDamaged as error:
            outcome = failed("bad_prompt_set", str(error), "Mend the artifact store, or send the prompts again.")
        except ArtifactDamaged as error:
            hint = "Mend the artifact store and resume the job, or begin anew or with another checkpoint."
            outcome = failed("bad_checkpoint", str(error), hint)
        except _DATABASE_AWAY as error:
            self._log.warning("job.not_recorded", error=str(error).splitlines()[0])
            outcome = Outcome(JobStatus.INTERRUPTED, lost=True)
        except OSError as error:
            hint = "Is there room, and may the worker write, in G2RPO_DATA_DIR and in the artifact store?"
            outcome = failed("storage", str(error), hint)
        except Exception as error:
            self._log.exception("job.not_supervised")
            outcome = failed("internal", f"{type(error).__name__}: {error}", "The worker's log has the details.")
        self._conclude(outcome, lease)

    def forget_files(self) -> None:
        """Once everything is in rows and in the store, let the log and the events alone stay, for a person here."""
        if not (self._rests and self._drained):
            return
        for number in range(1, self._claim.attempt + 1):  # a resumed job may have the next one here by now
            for part in self._work.stored:
                shutil.rmtree(self._place / f"attempt-{number}" / part, ignore_errors=True)

    def _attempt(self, lease: Lease) -> Outcome:
        claim, database = self._claim, self._database
        earlier = self._patiently(lambda: finish_earlier_attempts(database, claim, self._place, self._work), lease)
        if earlier is not None:
            self._drained = True
            return earlier
        row = self._patiently(self._row, lease)
        if row.losses >= self._settings.max_attempts:
            return too_often_lost(row.losses, None)
        make_room(self._directory)
        command = self._patiently(lambda: self._work.prepare(database, claim, row, self._directory), lease)
        stop, _ = self._patiently(lambda: self._wanted(False), lease)  # fetching a checkpoint may have taken a while
        if stop is not None:
            return classify(None, 0, stop=stop, out_of_memory=False, log_tail="")
        ingest = self._patiently(lambda: self._work.ingest(database, claim, self._directory), lease)
        kills = oom_kills()
        child = self._child = Child(command, self._directory / LOG_FILE, self._wake)
        self._log.info("job.started", pid=child.pid)
        with ThreadPoolExecutor(1, "ingest") as reader:
            try:
                if self._killed:
                    raise LeaseLost("the lease was lost before the child was started")
                stuck = self._watch(child, ingest, reader, lease, self._work.limits(row), row.seconds_used)
            finally:
                child.end(0)
        self._patiently(ingest.drain, lease)
        self._drained = True
        self._log_tail = ingest.log_tail()
        assert child.returncode is not None
        if stuck and ingest.ending is None:
            return stuck_for(stuck, self._log_tail)
        return classify(
            ingest.ending,
            child.returncode,
            stop=self._stop,
            out_of_memory=oom_kills() > kills,
            log_tail=self._log_tail,
        )

    def _row(self) -> SupervisedJob:
        with self._database.transaction() as session:
            return cast(SupervisedJob, session.get_one(self._claim.job, self._claim.id))

    def _watch(
        self, child: Child, ingest: Ingest[Any], reader: Executor, lease: Lease, limits: Limits, used: float
    ) -> float | None:
        """Until the child has exited. Seconds of silence if it was ended for that, else None.

        What it says is read beside this thread: storing a checkpoint may take minutes, in which people are still heard.
        """
        timeout = limits.progress_timeout_seconds or self._settings.progress_timeout_seconds
        budget = min(limits.wall_clock_seconds or math.inf, self._settings.max_run_seconds) - used
        spoken, moved = 0, time.monotonic()
        reading: Future[None] | None = None
        while not self._wake.wait(POLL_SECONDS):
            if reading is None or reading.done():
                reading = reader.submit(self._read, ingest)
            try:
                self._ask(child, ingest, time.monotonic() - self._claim.taken_at > budget)
            except (SQLAlchemyError, OSError) as error:
                self._log.warning("job.not_asked", error=str(error).splitlines()[0])
            with contextlib.suppress(OSError):  # a disk in trouble is told of by what needs it
                ingest.trim_log()
            now = time.monotonic()
            if (written := ingest.written()) != spoken:
                spoken, moved = written, now
            # Neither can be broken off: what is half done would be lost, or half saved.
            busy = ingest.phase in ("update", "checkpoint") and now - moved < timeout
            if now > self._patience and not busy:
                child.end(TERMINATION_SECONDS)
            elif self._stop is None and now - moved > timeout:
                child.end(TERMINATION_SECONDS)
                return timeout
        if lease.lost.is_set():
            raise LeaseLost("the lease could not be renewed in time")
        return None

    def _read(self, ingest: Ingest[Any]) -> None:
        """Bring into rows what the child has said by now. It goes on, and its files keep everything, if that fails."""
        try:
            ingest.drain()
        except LeaseLost:
            return  # the lease's own threads notice
        except (SQLAlchemyError, OSError) as error:
            self._log.warning("job.not_recorded", error=str(error).splitlines()[0])

    def _wanted(self, over_budget: bool) -> tuple[Stop | None, int]:
        """Why the child is to stop by now, if it is, and the request for a checkpoint that it has not answered."""
        asked = wish(self._database, self._claim)
        wanted: set[Stop] = {asked.stop} if asked.stop is not None else set()
        if self._stopping.is_set():
            wanted.add("drain")
        if over_budget:
            wanted.add("budget")
        return next((stop for stop in _RANK if stop in wanted), None), asked.checkpoint

    def _ask(self, child: Child, ingest: Ingest[Any], over_budget: bool) -> None:
        """Tell the child what is wanted of it by now, if that is something new or could not be told before."""
        stop, request = self._wanted(over_budget)
        if stop is None:
            if request:
                self._tell(Control(action="checkpoint", request=request))
            return
        if stop != self._stop:
            self._stop = stop
            self._log.info("job.stopping", why=stop)
            grace = self._settings.cancel_grace_seconds + 2 * ingest.step_seconds
            if stop == "drain":
                grace = self._settings.drain_seconds
            self._patience = time.monotonic() + grace
            if not ingest.started:
                child.end(TERMINATION_SECONDS)  # still loading: there is nothing to save, and nobody listens
        self._tell(Control(action="cancel" if stop == "cancel" else "pause", request=request))

    def _tell(self, control: Control) -> None:
        if control == self._asked:
            return
        fresh = self._directory / f"{CONTROL_FILE}.new"
        fresh.write_text(control.model_dump_json(), encoding="utf-8")
        fresh.replace(self._directory / CONTROL_FILE)
        self._asked = control

    def _patiently(self, work: Callable[[], T], lease: Lease) -> T:
        """Do `work`, and again while database or store are away, for as long as the lease holds."""
        tries = 0
        while True:
            try:
                return work()
            except (*_DATABASE_AWAY, OSError) as error:
                tries += isinstance(error, OSError)
                if tries >= STORAGE_TRIES:
                    raise
                self._log.warning("job.held_up", error=str(error).splitlines()[0])
            if lease.lost.wait(POLL_SECONDS):
                raise LeaseLost("the lease could not be renewed in time")

    def _conclude(self, outcome: Outcome, lease: Lease) -> None:
        while True:
            try:
                if outcome.lost and (lost := self._losses() + 1) >= self._settings.max_attempts:
                    code = self._child.returncode if self._child else None
                    outcome = too_often_lost(lost, code, self._log_tail)
                if outcome.status is not JobStatus.INTERRUPTED:
                    self._work_out()
                move(self._database, self._claim, outcome.status, outcome.error, lost=outcome.lost)
                break
            except _DATABASE_AWAY as error:
                self._log.warning("job.not_recorded", error=str(error).splitlines()[0])
            if lease.lost.wait(POLL_SECONDS):
                raise LeaseLost("the lease could not be renewed in time")
        STATS.add(f"jobs.{outcome.status}")
        self._log.info("job.ended", status=outcome.status, code=outcome.error["code"] if outcome.error else None)
        self._rests = outcome.status is not JobStatus.INTERRUPTED

    def _work_out(self) -> None:
        """Have the work concluded. What it stumbles over must not keep the job from coming to rest."""
        try:
            self._work.conclude(self._database, self._claim)
        except (LeaseLost, *_DATABASE_AWAY):
            raise
        except Exception:
            self._log.exception("job.not_concluded")

    def _losses(self) -> int:
        with self._database.transaction() as session:
            return session.scalars(select(self._job.losses).where(self._job.id == self._claim.id)).one()
