"""Heartbeats for work that cannot report its progress, such as downloading or loading weights."""

import contextlib
import threading
import time
from collections.abc import Callable, Iterator

PROGRESS_SECONDS = 30.0
"""Maximum interval between progress reports of active work."""
LOADING_SECONDS = 6 * 3600.0
"""Maximum loading time, enough for 34 GB at 1.6 MB/s. After it, the missing heartbeat shows that loading hangs."""


@contextlib.contextmanager
def periodic_heartbeat(
    heartbeat: Callable[[], None], interval: float = PROGRESS_SECONDS, at_most: float = LOADING_SECONDS
) -> Iterator[None]:
    """Call `heartbeat` from another thread every `interval` seconds inside the block, for at most `at_most` seconds."""
    ended, deadline = threading.Event(), time.monotonic() + at_most

    def repeat() -> None:
        while not ended.wait(interval) and time.monotonic() < deadline:
            with contextlib.suppress(OSError):  # a disk error is temporary, or the work itself raises it too
                heartbeat()

    thread = threading.Thread(target=repeat, name="heartbeat", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
