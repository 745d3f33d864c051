"""Ending with whoever started this process."""

import os
import threading

from service.contracts.jobs import PARENT_FD


def inherited() -> tuple[int, ...]:
    """The descriptor that a process started from here must have too, to end with the same parent."""
    descriptor = os.environ.get(PARENT_FD)
    return () if descriptor is None else (int(descriptor),)


def end_with_parent() -> None:
    """End this process at once when the supervisor's end of the pipe closes: nobody would read its results."""
    for descriptor in inherited():

        def watch(descriptor: int = descriptor) -> None:
            os.read(descriptor, 1)
            os._exit(1)

        threading.Thread(target=watch, name="parent-watch", daemon=True).start()
