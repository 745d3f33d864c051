"""One process tree at a time in a data directory."""

import fcntl
import os
import time
from pathlib import Path

from service.local import EmbeddedError

_PATIENCE_SECONDS = 3.0
"""What a killed server's helpers, or the guard of a killed `up`, may need to end and let go."""


def hold(directory: Path) -> int:
    """Lock `directory` and return the descriptor that holds the lock. Raises EmbeddedError.

    The lock lives as long as any process has the descriptor open. Handing it to a server keeps the directory locked
    while that server runs, even after the process that started it was killed.
    """
    descriptor = os.open(directory / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    deadline = time.monotonic() + _PATIENCE_SECONDS
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return descriptor
        except BlockingIOError:
            if time.monotonic() > deadline:
                os.close(descriptor)
                raise EmbeddedError(
                    f"{directory} is in use by another process; stop that one, or choose another data directory"
                ) from None
            time.sleep(0.05)


def is_held(directory: Path) -> bool:
    """Whether some process works on `directory` now."""
    try:
        descriptor = os.open(directory / "lock", os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False
