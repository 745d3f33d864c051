"""A circuit breaker: a server that fails again and again is left alone for a while."""

import threading
import time
from collections.abc import Callable

FAILURES = 5
"""Failed requests in a row after which a server counts as down."""
REST_SECONDS = 30.0
"""How long it is then left alone, before one request finds out whether it is back."""


class Breaker:
    """Counts failed requests; any thread may tell and ask. `clock` gives seconds."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._failed, self._cause, self._until = 0, "", 0.0

    def away(self) -> str | None:
        """Why the server is not to be asked now; None: it is. After a rest one asker gets None, to find out."""
        with self._lock:
            if self._failed < FAILURES:
                return None
            if self._clock() >= self._until:
                self._until = self._clock() + REST_SECONDS
                return None
            return f"not asked, because {self._failed} requests in a row have failed; at last: {self._cause}"

    def answered(self) -> None:
        """A request was."""
        with self._lock:
            self._failed = 0

    def failed(self, cause: str) -> None:
        """A request was given up."""
        with self._lock:
            self._failed, self._cause = self._failed + 1, cause
            if self._failed == FAILURES:
                self._until = self._clock() + REST_SECONDS
