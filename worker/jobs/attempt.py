"""One attempt at a claimed job: its lease, retries and stop requests."""

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar, Literal, Self, TypeVar

import structlog
from sqlalchemy import select
from sqlalchemy.exc import SQLAlchemyError
from tenacity import RetryCallState, Retrying, retry_if_exception_type, stop_after_attempt, wait_fixed

from service.contracts.status import HELD, JobStatus
from service.db.session import Database
from worker.jobs.claim import Claim, LeaseLost, renew
from worker.jobs.outcome import DATABASE_UNAVAILABLE, Outcome, too_often_lost
from worker.monitoring.stats import STATS

T = TypeVar("T")
log = structlog.get_logger()

_STOP_ACTIONS: dict[JobStatus, Literal["pause", "cancel"]] = {
    JobStatus.PAUSING: "pause",
    JobStatus.CANCELLING: "cancel",
}
STORAGE_TRIES = 30
"""Maximum number of tries if the artifact store or the disk fails."""


class Lease:
    """Context manager that renews the lease of `claim` in the background, and calls `on_lost` if the lease is lost.

    One thread renews the lease and may hang in the database; another thread watches the deadline. The deadline is
    measured on this machine's monotonic clock from the start of the last successful renewal. The job therefore stops
    before another worker can claim it, even if the database is unavailable or the clocks of other machines differ.
    """

    def __init__(self, database: Database, claim: Claim) -> None:
        self._database, self._claim = database, claim
        self._deadline = claim.taken_at + database.settings.lease_seconds
        self._ended = threading.Event()
        self.lost = threading.Event()
        self.on_lost: Callable[[], None] = lambda: None

    def __enter__(self) -> Self:
        for target in (self._renew, self._watch):
            threading.Thread(target=target, name=f"lease-{target.__name__}", daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.end()

    def end(self) -> None:
        """Stop renewing the lease, after the job has ended."""
        self._ended.set()

    def check(self) -> None:
        """Raise LeaseLost if the lease is lost."""
        self.wait(0)

    def wait(self, seconds: float) -> None:
        """Wait for `seconds` seconds. Raises LeaseLost as soon as the lease is lost."""
        if self.lost.wait(seconds):
            raise LeaseLost("the lease was not renewed in time")

    def _renew(self) -> None:
        settings = self._database.settings
        pause = settings.renew_seconds
        while not self._ended.wait(pause):
            before, pause = time.monotonic(), settings.renew_seconds
            try:
                renew(self._database, self._claim)
                self._deadline = before + settings.lease_seconds
            except LeaseLost:
                if not self._ended.is_set():
                    self._deadline = before
                return
            except SQLAlchemyError as error:
                pause = min(1.0, pause)
                STATS.add("lease_renewals_failed")
                log.warning("lease.not_renewed", job=str(self._claim.id), error=str(error).splitlines()[0])

    def _watch(self) -> None:
        # Wait briefly, because the deadline moves to an earlier time if another attempt holds the lease.
        while not self._ended.wait(min(1.0, max(0.0, self._deadline - time.monotonic()))):
            if time.monotonic() >= self._deadline:
                STATS.add("leases_lost")
                log.error("lease.lost", job=str(self._claim.id), attempt=self._claim.attempt)
                self.lost.set()
                self.on_lost()
                return


@dataclass(frozen=True)
class StopRequest:
    """What users have requested of a running job."""

    stop: Literal["pause", "cancel"] | None
    checkpoint: int
    """Number of the newest unanswered checkpoint request; 0 if there is none."""


class AttemptEnded(Exception):
    """Raised to end the attempt early with `outcome`."""

    def __init__(self, outcome: Outcome) -> None:
        self.outcome = outcome


class Attempt:
    """State and operations shared by the runner, `Supervisor` and `InProcess`.

    `stopping` is set when the worker shuts down.
    """

    poll_seconds: ClassVar[float] = 1.0

    def __init__(self, database: Database, claim: Claim, stopping: threading.Event) -> None:
        self.database, self.claim, self.stopping = database, claim, stopping
        self.lease = Lease(database, claim)
        self.recorded = threading.Event()
        """Set when the end of the job is recorded in the database although its work may still be running."""

    @cached_property
    def log(self) -> Any:
        """A logger bound to the job and attempt, for use in any thread."""
        return log.bind(**{self.claim.kind: str(self.claim.id)}, attempt=self.claim.attempt)

    def retry(self, function: Callable[..., T], *args: Any) -> T:
        """Call `function` until it succeeds, up to STORAGE_TRIES times if the store or the disk fails.

        Database failures are retried as in `retry_database`. Raises LeaseLost if the lease is lost.
        """
        stop = stop_after_attempt(STORAGE_TRIES)
        result: T = self.retry_database(self._retrying(OSError, stop=stop), function, *args)
        return result

    def retry_database(self, function: Callable[..., T], *args: Any) -> T:
        """Call `function`, and retry while the database is unavailable. Raises LeaseLost if the lease is lost."""
        result: T = self._retrying(*DATABASE_UNAVAILABLE)(function, *args)
        return result

    def _retrying(self, *errors: type[Exception], **options: Any) -> Retrying:
        return Retrying(
            retry=retry_if_exception_type(errors),
            wait=wait_fixed(self.poll_seconds),
            sleep=self.lease.wait,
            before_sleep=self._log_retry,
            reraise=True,
            **options,
        )

    def _log_retry(self, state: RetryCallState) -> None:
        error = state.outcome.exception() if state.outcome else None
        self.log.warning("job.retrying", error=str(error).splitlines()[0] if str(error) else repr(error))

    def stop_request(self) -> StopRequest:
        """Read the users' requests from the database. Raises LeaseLost if the claim is no longer valid."""
        claim, job = self.claim, self.claim.model
        checkpoint = claim.job_type.checkpoint_request().label("checkpoint")
        query = select(job.attempt, job.lease_owner, job.status, checkpoint).where(job.id == claim.id)
        with self.database.transaction() as session:
            row = session.execute(query).one_or_none()
        if row is None or (row.attempt, row.lease_owner) != (claim.attempt, claim.owner) or row.status not in HELD:
            raise claim.lost()
        return StopRequest(_STOP_ACTIONS.get(row.status), row.checkpoint)

    def losses(self) -> int:
        """Return the number of consecutive lost attempts of the job."""
        job = self.claim.model
        with self.database.transaction() as session:
            return session.scalars(select(job.losses).where(job.id == self.claim.id)).one()

    def check_losses(self) -> None:
        """Raise AttemptEnded if the job has lost the maximum number of attempts."""
        if (losses := self.losses()) >= self.database.settings.max_attempts:
            raise AttemptEnded(too_often_lost(losses))
