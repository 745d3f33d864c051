"""Keeping a job's lease alive, and knowing when it is lost without asking the database."""

import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import Self

import structlog
from sqlalchemy.exc import SQLAlchemyError

from service.db.session import Database
from worker.jobs.claim import Claim, LeaseLost, renew
from worker.monitoring.stats import STATS

log = structlog.get_logger()


class Lease:
    """Renews the lease of `claim` while the block runs, and calls `on_lost` once if that fails for too long.

    Two threads: one renews, and may hang in the database; the other watches the deadline, which counts on this
    machine's monotonic clock from before the last renewal that worked. So the job is given up before anybody else can
    take it, whatever the database or the clocks of other machines do.
    """

    def __init__(self, database: Database, claim: Claim, on_lost: Callable[[], None]) -> None:
        self._database, self._claim, self._on_lost = database, claim, on_lost
        self._deadline = claim.taken_at + database.settings.lease_seconds
        self._ended = threading.Event()
        self.lost = threading.Event()

    def __enter__(self) -> Self:
        for target in (self._renew, self._watch):
            threading.Thread(target=target, name=f"lease-{target.__name__}", daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.end()

    def end(self) -> None:
        """Renew it no more: the job has come to its end, which may be before that of the block."""
        self._ended.set()

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
        # Short waits, because a lease that another attempt took moves the deadline nearer.
        while not self._ended.wait(min(1.0, max(0.0, self._deadline - time.monotonic()))):
            if time.monotonic() >= self._deadline:
                STATS.add("leases_lost")
                log.error("lease.lost", job=str(self._claim.id), attempt=self._claim.attempt)
                self.lost.set()
                self._on_lost()
                return
