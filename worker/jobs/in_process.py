"""One attempt at a job that this process does itself, with models kept loaded: a generation, or a scoring."""

import contextlib
import os
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import structlog
from sqlalchemy import select
from sqlalchemy.exc import SQLAlchemyError
from tenacity import Retrying, retry_if_exception_type, stop_after_delay, wait_fixed

from service.contracts.status import JobStatus
from service.db.artifacts import ArtifactDamaged, StoreUnavailable
from service.db.session import Database
from worker.engine.inference.model_cache import WARM
from worker.engine.keepalive import PROGRESS_SECONDS, repeated
from worker.jobs.claim import Claim, LeaseLost, move, wish
from worker.jobs.lease import Lease
from worker.jobs.outcome import Outcome, failed, stuck_for, too_often_lost
from worker.monitoring.stats import STATS

log = structlog.get_logger()

_LISTENING_SECONDS = 1.0
"""Longest time for which work that loads does not hear that it is to end."""
STUCK_EXIT = 70
"""Exit status of a worker whose job hung."""

patiently = Retrying(
    retry=retry_if_exception_type(StoreUnavailable), wait=wait_fixed(1), stop=stop_after_delay(30), reraise=True
)
"""Calls something again while the artifact store is away."""


class Stopped(Exception):
    """The attempt ends before its work is done, for the reason in `outcome`."""

    def __init__(self, outcome: Outcome) -> None:
        self.outcome = outcome


@dataclass(frozen=True)
class Attempt:
    """What the work of an attempt tells, and is told."""

    database: Database
    claim: Claim
    _lease: Lease
    _stopping: threading.Event
    _watch: "_Watch"
    _progress_seconds: float = PROGRESS_SECONDS
    cancelled: threading.Event = field(default_factory=threading.Event)
    """Set once the job's end is recorded, though the work still goes on."""

    def begin(self) -> None:
        """Have the job run. Raises Stopped where its end was asked for already, and LeaseLost."""
        self.check_wish()
        move(self.database, self.claim, JobStatus.RUNNING)

    def got_on(self) -> None:
        """Tell that the work got on. Raises LeaseLost, and Stopped where the worker is to end, or the job has ended."""
        self._watch.moved()
        if self.cancelled.is_set():
            raise Stopped(Outcome(JobStatus.CANCELLED))
        if self._lease.lost.is_set():
            raise LeaseLost("the lease could not be renewed in time")
        if self._stopping.is_set():
            raise Stopped(Outcome(JobStatus.INTERRUPTED))

    @contextlib.contextmanager
    def loading(self) -> Iterator[None]:
        """Within: the work counts as getting on, though it says nothing, and nobody who cancels waits for it.

        Ends as `got_on` does.
        """
        with repeated(self._watch.moved, self._progress_seconds), repeated(self._grant_wish, _LISTENING_SECONDS):
            yield
        self.got_on()

    def _grant_wish(self) -> None:
        """Have the job's end recorded if somebody asked for it: what loads cannot be broken off."""
        if self.cancelled.is_set():
            return
        with contextlib.suppress(SQLAlchemyError, LeaseLost):  # the work itself meets them, or they pass
            if wish(self.database, self.claim).stop is not None:
                move(self.database, self.claim, JobStatus.CANCELLED)
                self._lease.end()
                self.cancelled.set()

    def check_wish(self) -> None:
        """Raise Stopped where somebody asked for the job's end, and LeaseLost."""
        if wish(self.database, self.claim).stop is not None:
            raise Stopped(Outcome(JobStatus.CANCELLED))


@WARM.in_use()
def serve(database: Database, claim: Claim, stopping: threading.Event, work: Callable[[Attempt], None]) -> None:
    """See a claimed job through by `work`. Never raises for what the request, a model or another worker did."""
    kind = claim.job.KIND
    bound = log.bind(attempt=claim.attempt, **{kind: str(claim.id)})
    try:
        with Lease(database, claim, on_lost=lambda: None) as lease, _Watch(database, claim) as watch:
            attempt = Attempt(database, claim, lease, stopping, watch)
            outcome = _outcome(attempt, work)
            if attempt.cancelled.is_set():
                outcome = Outcome(JobStatus.CANCELLED)
            while not attempt.cancelled.is_set():
                try:
                    if outcome.lost and (lost := _losses(database, claim) + 1) >= database.settings.max_attempts:
                        outcome = too_often_lost(lost, None)
                    move(database, claim, outcome.status, outcome.error, lost=outcome.lost)
                    break
                except SQLAlchemyError as error:
                    bound.warning(f"{kind}.not_recorded", error=str(error).splitlines()[0])
                if lease.lost.wait(1.0):
                    raise LeaseLost("the lease could not be renewed in time")
            STATS.add(f"jobs.{outcome.status}")
            bound.info(f"{kind}.ended", status=outcome.status)
    except LeaseLost as lost:
        bound.warning(f"{kind}.lost", detail=str(lost))


class _Watch:
    """Ends this process when its job does not get on: a thread that hangs in the device cannot be stopped otherwise.

    Whoever started the worker starts it again.
    """

    def __init__(self, database: Database, claim: Claim) -> None:
        self._database, self._claim = database, claim
        self._timeout = database.settings.progress_timeout_seconds
        self._moved = time.monotonic()
        self._ended = threading.Event()

    def moved(self) -> None:
        """The job got on."""
        self._moved = time.monotonic()

    def __enter__(self) -> "_Watch":
        threading.Thread(target=self._run, name=f"{self._claim.job.KIND}-watch", daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()

    def _run(self) -> None:
        while not self._ended.wait(max(0.05, self._moved + self._timeout - time.monotonic())):
            if time.monotonic() - self._moved < self._timeout:
                continue
            kind = self._claim.job.KIND
            log.error(f"{kind}.stuck", seconds=self._timeout, **{kind: str(self._claim.id)})
            outcome = stuck_for(self._timeout, "")
            with contextlib.suppress(SQLAlchemyError, LeaseLost):
                move(self._database, self._claim, outcome.status, outcome.error)
            os._exit(STUCK_EXIT)


def _losses(database: Database, claim: Claim) -> int:
    with database.transaction() as session:
        return session.scalars(select(claim.job.losses).where(claim.job.id == claim.id)).one()


def _outcome(attempt: Attempt, work: Callable[[Attempt], None]) -> Outcome:
    database, claim = attempt.database, attempt.claim
    kind = claim.job.KIND
    try:
        if (lost := _losses(database, claim)) >= database.settings.max_attempts:
            return too_often_lost(lost, None)
        attempt.begin()
        work(attempt)
    except Stopped as stopped:
        return stopped.outcome
    except LeaseLost:
        raise
    except ArtifactDamaged as error:
        return failed("bad_checkpoint", str(error), "Choose another checkpoint.")
    except SQLAlchemyError as error:
        log.warning(f"{kind}.not_recorded", error=str(error).splitlines()[0])
        return Outcome(JobStatus.INTERRUPTED, lost=True)
    except StoreUnavailable as error:
        return failed("storage", str(error), "Mend G2RPO_STORAGE_URL, or its place; then ask again.")
    except (ValueError, KeyError) as error:
        return failed("bad_config", str(error.args[0] if error.args else error), "Correct the request or the catalog.")
    except MemoryError as error:
        return failed("out_of_memory", str(error), "Ask for fewer or smaller images.")
    except Exception as error:
        log.exception(f"{kind}.failed", **{kind: str(claim.id)})
        if type(error).__name__ == "OutOfMemoryError":  # torch's, by name: this module must not import torch
            return failed("out_of_memory", str(error), "Ask for fewer or smaller images.")
        return failed("error", f"{type(error).__name__}: {error}", "The worker's log has the details.")
    return Outcome(JobStatus.SUCCEEDED)
