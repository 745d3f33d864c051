"""An embedded server as a direct child process: the lock and the sockets of its data directory, its start and stop.

`service.local.guard` imports this module, so it imports the standard library only.
"""

import fcntl
import os
import shutil
import signal
import stat
import subprocess
import tempfile
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from service.local import EmbeddedError

Process: TypeAlias = subprocess.Popen[bytes]
Announce: TypeAlias = Callable[[Process], None]
"""Receives a process as soon as it exists, so that it can be ended whatever happens next."""

_LOCK_SECONDS = 3.0
"""Time that helpers of a killed server, or the guard of a killed `up`, may need to end and release the lock."""
_STOP_SECONDS = 20.0
_MAX_SOCKET_PATH = 107
"""Bytes: the kernel's `sun_path` has room for 108 with the closing zero."""
_LONGEST_NAME = len("/g2rpo-12345678/.s.PGSQL.5432.lock")
_SOCKETS, _PREFIX = "sockets", "g2rpo-"
_TAIL_CHARACTERS = 2000


@dataclass(frozen=True)
class Server:
    """A running server. `url` is valid for SQLAlchemy or Celery, and for the service's settings."""

    url: str
    data: Path
    process: Process
    stop_signals: tuple[signal.Signals, ...]

    def stop(self) -> None:
        """Stop the server with increasing force; committed data is preserved."""
        for stop in (*self.stop_signals, signal.SIGKILL):
            self.process.send_signal(stop)
            try:
                self.process.wait(_STOP_SECONDS)
                break
            except subprocess.TimeoutExpired:
                continue
        remove_sockets(self.data)


def launch(argv: Sequence[str], log_file: Path, *descriptors: int, **options: Any) -> Process:
    """Start a process in its own session. It inherits the descriptors, and its output goes to `log_file`."""
    options = {"stdin": subprocess.DEVNULL, **options}
    with log_file.open("ab") as log:
        return subprocess.Popen(argv, stdout=log, stderr=log, start_new_session=True, pass_fds=descriptors, **options)


def wait_until_ready(name: str, process: Process, log_file: Path, seconds: float, is_ready: Callable[[], bool]) -> None:
    """Wait until a server is ready. Raises EmbeddedError if it ends, or is not ready after `seconds`."""
    deadline = time.monotonic() + seconds
    while not is_ready():
        if process.poll() is not None or time.monotonic() > deadline:
            process.kill()
            process.wait()
            raise EmbeddedError(f"{name} did not start; its log {log_file} ends with:\n{tail(log_file)}")
        time.sleep(0.01)


def tail(log_file: Path) -> str:
    """The end of a log."""
    try:
        return log_file.read_text(encoding="utf-8", errors="replace")[-_TAIL_CHARACTERS:].strip()
    except FileNotFoundError:
        return "(empty)"


@contextmanager
def locked(directory: Path) -> Iterator[int]:
    """Lock a data directory and yield the descriptor that holds the lock. Raises EmbeddedError.

    The lock lasts as long as any process has the descriptor open. A server that inherits the descriptor keeps the
    directory locked while it runs, even after the process that started it was killed.
    """
    descriptor = os.open(directory / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        deadline = time.monotonic() + _LOCK_SECONDS
        while not _try_lock(descriptor, fcntl.LOCK_EX):
            if time.monotonic() > deadline:
                raise EmbeddedError(
                    f"{directory} is in use by another process; stop that process, or choose another data directory"
                )
            time.sleep(0.05)
        yield descriptor
    finally:
        os.close(descriptor)


def is_locked(directory: Path) -> bool:
    """Whether a process works on `directory`."""
    try:
        descriptor = os.open(directory / "lock", os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        return not _try_lock(descriptor, fcntl.LOCK_SH)
    finally:
        os.close(descriptor)


def _try_lock(descriptor: int, operation: int) -> bool:
    try:
        fcntl.flock(descriptor, operation | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def make_sockets(data: Path, owners: Collection[int]) -> Path:
    """A private directory for the sockets of the server on `data`, which has a link to it.

    It is in the system's temporary directory because a socket's path is limited in length and `data` is not. A server
    on the same data after a kill uses the directory again, so that its URL stays the same, but only if the directory
    belongs to one of the users `owners`.
    """
    existing = sockets_of(data)
    if existing is not None and _is_private(existing, owners):
        return existing
    remove_sockets(data)
    parent = Path(tempfile.gettempdir())
    if len(os.fsencode(parent)) + _LONGEST_NAME > _MAX_SOCKET_PATH:
        parent = Path("/tmp")  # noqa: S108 - mkdtemp creates the directory with mode 0700
    directory = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=parent)).resolve()
    (data / _SOCKETS).symlink_to(directory)
    return directory


def _is_private(directory: Path, owners: Collection[int]) -> bool:
    try:
        status = directory.lstat()
    except OSError:
        return False
    return stat.S_ISDIR(status.st_mode) and stat.S_IMODE(status.st_mode) == 0o700 and status.st_uid in owners


def remove_sockets(data: Path) -> None:
    """Remove the socket directory of `data`, if it exists. The caller holds the lock on `data`."""
    directory = sockets_of(data)
    if directory is not None:
        if directory.name.startswith(_PREFIX):
            shutil.rmtree(directory, ignore_errors=True)
        (data / _SOCKETS).unlink(missing_ok=True)


def sockets_of(data: Path) -> Path | None:
    """The socket directory of the server on `data`, if it runs or was killed."""
    link = data / _SOCKETS
    return link.readlink() if link.is_symlink() else None
