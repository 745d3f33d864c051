"""Signs of life from work that cannot give any itself: a library that downloads or reads weights says nothing."""

import contextlib
import threading
import time
from collections.abc import Callable, Iterator

PROGRESS_SECONDS = 30.0
"""Longest silence of work that gets on."""
LOADING_SECONDS = 6 * 3600.0
"""How long loading counts as getting on unseen: 34 GB at 1.6 MB/s. After that, one that hangs is found by silence."""


@contextlib.contextmanager
def repeated(
    sign: Callable[[], None], every: float = PROGRESS_SECONDS, at_most: float = LOADING_SECONDS
) -> Iterator[None]:
    """Within: `sign` is called every so many seconds, from another thread, for `at_most` seconds. Never afterwards."""
    ended, last = threading.Event(), time.monotonic() + at_most

    def repeat() -> None:
        while not ended.wait(every) and time.monotonic() < last:
            with contextlib.suppress(OSError):  # a disk in trouble: the work itself meets it, or it passes
                sign()

    thread = threading.Thread(target=repeat, name="signs-of-life", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
