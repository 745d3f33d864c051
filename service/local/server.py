"""Start and stop embedded servers as child processes, and manage the locks and sockets of their data directories.

`service.local.watchdog` imports this module, so apart from `service.local` it imports only the standard library.
"""

import fcntl
import os
import shutil
import signal
import stat
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from service.local import EmbeddedError

Process: TypeAlias = subprocess.Popen[bytes]
Announce: TypeAlias = Callable[[Process], None]
"""Called with a process as soon as it exists, so that the process can be stopped even if the start fails."""

_LOCK_SECONDS = 3.0
"""Maximum time for helpers of a killed server, or the watchdog of a killed `up`, to end and release the lock."""
_STOP_SECONDS = 20.0
_MAX_SOCKET_PATH = 107
"""In bytes. The kernel's `sun_path` holds 108 bytes, including the terminating null byte."""
_LONGEST_NAME = len("/g2rpo-12345678/.s.PGSQL.5432.lock")
_SOCKETS, _PREFIX = "sockets", "g2rpo-"
_TAIL_CHARACTERS = 2000


@dataclass(frozen=True)
class Server:
    """A running server. `url` can be used with SQLAlchemy or Celery, and in the service's settings."""

    url: str
    data: Path
    process: Process
    stop_signals: tuple[signal.Signals, ...]

    def stop(self) -> None:
        """Stop the server with increasingly strong signals. Committed data is preserved."""
        for stop in (*self.stop_signals, signal.SIGKILL):
            self.process.send_signal(stop)
            try:
                self.process.wait(_STOP_SECONDS)
                break
            except subprocess.TimeoutExpired:
                continue
        remove_sockets(self.data)


def launch(argv: Sequence[str], log_file: Path, *descriptors: int, **options: Any) -> Process:
    """Start a process in its own session. It inherits `descriptors`, and its output is appended to `log_file`."""
    options = {"stdin": subprocess.DEVNULL, **options}
    with log_file.open("ab") as log:
        return subprocess.Popen(argv, stdout=log, stderr=log, start_new_session=True, pass_fds=descriptors, **options)


def wait_until_ready(name: str, process: Process, log_file: Path, seconds: float, is_ready: Callable[[], bool]) -> None:
    """Wait until a server is ready. Raises EmbeddedError if it ends or is not ready after `seconds`."""
    deadline = time.monotonic() + seconds
    while not is_ready():
        if process.poll() is not None or time.monotonic() > deadline:
            process.kill()
            process.wait()
            raise EmbeddedError(f"{name} did not start; its log {log_file} ends with:\n{tail(log_file)}")
        time.sleep(0.01)


def tail(log_file: Path) -> str:
    """Return the end of a log, or `(empty)` if the file does not exist."""
    try:
        return log_file.read_text(encoding="utf-8", errors="replace")[-_TAIL_CHARACTERS:].strip()
    except FileNotFoundError:
        return "(empty)"


@contextmanager
def locked(directory: Path) -> Iterator[int]:
    """Lock a data directory and yield the descriptor that holds the lock. Raises EmbeddedError if it is in use.

    The lock is held as long as any process has the descriptor open. A server that inherits the descriptor therefore
    keeps the directory locked while it runs, even if the process that started it has been killed.
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
    """Whether a process has locked `directory`."""
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


def make_sockets(data: Path, group: int | None = None) -> Path:
    """Create a private directory for the sockets of the server on `data`, or reuse the existing one.

    The directory belongs to the current user. A server of another account can create sockets in it as a member of
    `group`, but cannot replace files of the current user. The directory is in the system's temporary directory, because
    the length of a socket's path is limited and that of `data` is not. `data` contains a link to it. A server that is
    restarted after a kill reuses the directory, so that its URL stays the same.
    """
    mode, gid = (0o700, os.getegid()) if group is None else (0o1770, group)
    existing = sockets_of(data)
    if existing is not None and _is_private(existing, mode, gid):
        return existing
    remove_sockets(data)
    parent = Path(tempfile.gettempdir())
    if len(os.fsencode(parent)) + _LONGEST_NAME > _MAX_SOCKET_PATH:
        parent = Path("/tmp")  # noqa: S108 - mkdtemp creates the directory with mode 0700
    directory = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=parent)).resolve()
    if group is not None:
        os.chown(directory, -1, gid)
        directory.chmod(mode)
    (data / _SOCKETS).symlink_to(directory)
    return directory


def _is_private(directory: Path, mode: int, gid: int) -> bool:
    try:
        status = directory.lstat()
    except OSError:
        return False
    is_own = stat.S_ISDIR(status.st_mode) and status.st_uid == os.geteuid()
    return is_own and stat.S_IMODE(status.st_mode) == mode and (mode == 0o700 or status.st_gid == gid)


def remove_sockets(data: Path) -> None:
    """Remove the socket directory of `data`, if it exists. The caller must hold the lock on `data`."""
    directory = sockets_of(data)
    if directory is not None:
        if directory.name.startswith(_PREFIX):
            shutil.rmtree(directory, ignore_errors=True)
        (data / _SOCKETS).unlink(missing_ok=True)


def sockets_of(data: Path) -> Path | None:
    """Return the socket directory of the server on `data`, or None if the server never ran or was stopped properly."""
    link = data / _SOCKETS
    return link.readlink() if link.is_symlink() else None
