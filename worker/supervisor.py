"""One attempt at one run: prepare its directory, start the child, watch it, bring what it says into rows, end it."""

import shutil
import threading
import time
from collections.abc import Sequence
from pathlib import Path

import structlog
from sqlalchemy import select
from sqlalchemy.exc import InterfaceError, OperationalError, SQLAlchemyError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from service.contracts.events import Failed, Finished
from service.contracts.jobs import CONTROL_FILE, LOG_FILE, SPEC_FILE, Control
from service.contracts.runs import RunSpec
from service.contracts.status import JobStatus
from service.db.artifacts import ArtifactDamaged
from service.db.models import Attempt, Checkpoint, Run
from service.db.session import Database
from worker import artifacts, launch
from worker.child import Child
from worker.claims import Claim, LeaseLost, cancel_requested, move
from worker.ingest import Ingest
from worker.lease import Lease
from worker.outcome import Outcome, classify, failed, oom_kills, too_often_lost

log = structlog.get_logger()

POLL_SECONDS = 1.0
_DATABASE_AWAY = (OperationalError, InterfaceError, PoolTimeout)
"""The database is out of reach, which passes. Anything else would fail again however often it is tried."""
TERMINATION_SECONDS = 10.0
"""How long a child gets between SIGTERM and SIGKILL."""


def supervise(
    database: Database, claim: Claim, stopping: threading.Event, program: Sequence[str] = launch.TRAIN
) -> None:
    """See a claimed run through to the end of this attempt. `stopping` asks to give it up for somebody else.

    Never raises for what a run, its child or another worker did; the run's row says how it ended.
    """
    supervisor = _Supervisor(database, claim, stopping, program)
    try:
        with Lease(database, claim, supervisor.kill) as lease:
            supervisor.work(lease)
    except LeaseLost as lost:
        log.warning("run.lost", run=str(claim.id), attempt=claim.attempt, detail=str(lost))
    finally:
        supervisor.kill()


class _Supervisor:
    def __init__(self, database: Database, claim: Claim, stopping: threading.Event, program: Sequence[str]) -> None:
        self._database, self._claim, self._stopping, self._program = database, claim, stopping, program
        self._runs = database.settings.data_dir.absolute() / "work" / "runs" / str(claim.id)
        self._directory = self._runs / f"attempt-{claim.attempt}"
        self._wake = threading.Event()
        self._child: Child | None = None
        self._killed = False
        self._drained = False
        """Whether everything the child wrote is in rows and in the store."""
        self._log = log.bind(run=str(claim.id), attempt=claim.attempt)

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
        except ArtifactDamaged as error:
            outcome = failed("bad_checkpoint", str(error), "Choose another checkpoint in start_from.")
        except _DATABASE_AWAY as error:
            self._log.warning("run.not_recorded", error=str(error).splitlines()[0])
            outcome = Outcome(JobStatus.INTERRUPTED, lost=True)
        except OSError as error:
            hint = "Is there room, and may the worker write, in G2RPO_DATA_DIR and in the artifact store?"
            outcome = failed("storage", str(error), hint)
        except Exception as error:
            self._log.exception("run.not_supervised")
            outcome = failed("internal", f"{type(error).__name__}: {error}", "The worker's log has the details.")
        self._conclude(outcome, lease)

    def _attempt(self, lease: Lease) -> Outcome:
        earlier = self._finish_earlier_attempts()
        if earlier is not None:
            return earlier
        self._directory.mkdir(parents=True, exist_ok=True)
        command = self._prepare()
        ingest = Ingest(self._database, self._claim, self._directory)
        kills = oom_kills()
        child = self._child = Child(command, self._directory / LOG_FILE, self._wake)
        self._log.info("run.started", pid=child.pid)
        try:
            if self._killed:
                raise LeaseLost("the lease was lost before the child was started")
            ended = self._watch(child, ingest, lease)
        finally:
            child.end(0)
        self._drain_all(ingest, lease)
        self._drained = True
        assert child.returncode is not None
        if ended is not None and ingest.ending is None:
            return ended
        return classify(
            ingest.ending,
            child.returncode,
            cancelled=cancel_requested(self._database, self._claim),
            out_of_memory=oom_kills() > kills,
            log_tail=ingest.log_tail(),
        )

    def _finish_earlier_attempts(self) -> Outcome | None:
        """Bring into rows what an earlier worker on this machine had no time for; perhaps the run has ended already."""
        with self._database.transaction() as session:
            numbers = session.scalars(
                select(Attempt.number)
                .where(Attempt.run_id == self._claim.id, Attempt.number < self._claim.attempt)
                .order_by(Attempt.number)
            ).all()
        for number in numbers:
            directory = self._runs / f"attempt-{number}"
            if not directory.is_dir():
                continue
            ingest = Ingest(self._database, self._claim, directory, number)
            ingest.drain()
            if isinstance(ingest.ending, Finished | Failed):
                self._drained = True
                return classify(ingest.ending, 0, cancelled=False, out_of_memory=False, log_tail=ingest.log_tail())
        return None

    def _prepare(self) -> launch.Launch:
        with self._database.transaction() as session:
            run = session.get_one(Run, self._claim.id)
            spec, start = RunSpec.model_validate(run.spec), run.start_from
        spec_file = self._directory / SPEC_FILE
        spec_file.write_text(spec.model_dump_json(indent=2), encoding="utf-8")
        resume = self._newest_checkpoint()
        start_from = artifacts.fetch_checkpoint(self._database, start) if start and not resume else None
        return launch.train(spec_file, self._directory, start_from, resume, self._program)

    def _newest_checkpoint(self) -> Path | None:
        """The run's own newest checkpoint that the store still has whole, on this machine."""
        with self._database.transaction() as session:
            ids = session.scalars(
                select(Checkpoint.id)
                .where(Checkpoint.run_id == self._claim.id)
                .order_by(Checkpoint.step.desc(), Checkpoint.attempt.desc())
            ).all()
        for id_ in ids:
            try:
                return artifacts.fetch_checkpoint(self._database, id_)
            except ArtifactDamaged as error:
                self._log.warning("checkpoint.damaged", checkpoint=str(id_), detail=str(error))
        return None

    def _watch(self, child: Child, ingest: Ingest, lease: Lease) -> Outcome | None:
        """Until the child has exited: an outcome of our making, or None where the child's own end tells."""
        settings = self._database.settings
        spoken, moved = 0, time.monotonic()
        asked: float | None = None
        while not self._wake.wait(POLL_SECONDS):
            if self._stopping.is_set():
                child.end(TERMINATION_SECONDS)
                return Outcome(JobStatus.INTERRUPTED)
            try:
                ingest.drain()
            except (SQLAlchemyError, OSError) as error:
                # The child goes on, and its files keep everything, for as long as the lease holds.
                self._log.warning("run.not_recorded", error=str(error).splitlines()[0])
            now = time.monotonic()
            try:
                if asked is None and cancel_requested(self._database, self._claim):
                    asked = now
                    self._ask(Control(action="cancel"))
            except (SQLAlchemyError, OSError) as error:
                self._log.warning("run.not_asked", error=str(error).splitlines()[0])
            if (written := ingest.written()) != spoken:
                spoken, moved = written, now
            if asked is not None and now - asked > settings.cancel_grace_seconds:
                child.end(TERMINATION_SECONDS)
                return Outcome(JobStatus.CANCELLED)
            if now - moved > settings.progress_timeout_seconds:
                child.end(TERMINATION_SECONDS)
                return self._stuck(ingest)
        if lease.lost.is_set():
            raise LeaseLost("the lease could not be renewed in time")
        return None

    def _ask(self, control: Control) -> None:
        fresh = self._directory / f"{CONTROL_FILE}.new"
        fresh.write_text(control.model_dump_json(), encoding="utf-8")
        fresh.replace(self._directory / CONTROL_FILE)

    def _stuck(self, ingest: Ingest) -> Outcome:
        seconds = self._database.settings.progress_timeout_seconds
        detail = f"the process reported nothing for {seconds:g} s and was ended"
        return failed("stuck", detail, "G2RPO_PROGRESS_TIMEOUT_SECONDS sets how long is too long.", ingest.log_tail())

    def _drain_all(self, ingest: Ingest, lease: Lease) -> None:
        """Nothing recorded is lost: a terminal status waits for every row, as long as the lease holds."""
        tries = 0
        while True:
            try:
                return ingest.drain()
            except (*_DATABASE_AWAY, OSError) as error:
                tries += 1
                if isinstance(error, OSError) and tries >= 5:
                    raise
                self._log.warning("run.not_recorded", error=str(error).splitlines()[0])
            if lease.lost.wait(POLL_SECONDS):
                raise LeaseLost("the lease could not be renewed in time")

    def _conclude(self, outcome: Outcome, lease: Lease) -> None:
        if outcome.lost and self._claim.attempt >= self._database.settings.max_attempts:
            code = self._child.returncode if self._child else None
            outcome = too_often_lost(self._claim.attempt, code)
        while True:
            try:
                move(self._database, self._claim, outcome.status, outcome.error)
                break
            except _DATABASE_AWAY as error:
                self._log.warning("run.not_recorded", error=str(error).splitlines()[0])
            if lease.lost.wait(POLL_SECONDS):
                raise LeaseLost("the lease could not be renewed in time")
        self._log.info("run.ended", status=outcome.status, code=outcome.error["code"] if outcome.error else None)
        if outcome.status is not JobStatus.INTERRUPTED and self._drained:
            self._forget_files()

    def _forget_files(self) -> None:
        """Everything is in rows and in the store; only the log and the events stay, for a person at the machine."""
        for directory in self._runs.glob("attempt-*"):
            for part in ("samples", "checkpoints"):
                shutil.rmtree(directory / part, ignore_errors=True)
