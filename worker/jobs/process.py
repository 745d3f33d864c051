"""Child processes: commands, and process groups that end together with the parent process."""

import contextlib
import os
import signal
import subprocess
import threading
from dataclasses import dataclass, field
from pathlib import Path

from service.contracts.attempt_files import PARENT_FD

_SECRETS = (
    *("G2RPO_DATABASE_URL", "G2RPO_BROKER_URL", "G2RPO_STORAGE_URL", "G2RPO_ADMIN_KEY", "G2RPO_API_KEY"),
    *("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"),
)
"""Environment variables withheld from engine processes, which do not need these secrets and must not print them."""
_MALLOC = {"MALLOC_MMAP_THRESHOLD_": str(64 * 2**20), "MALLOC_TRIM_THRESHOLD_": str(128 * 2**20)}
"""Settings that keep glibc from returning freed tensor memory to the kernel, which would clear it for the next tensor.

On two cores, this takes a tenth of a step's processor time.
"""


def engine_environment() -> dict[str, str]:
    """Return this process's environment without secrets, with settings for engine processes."""
    inherited = {name: value for name, value in os.environ.items() if name not in _SECRETS}
    # Output is unbuffered, so that the log contains everything that the process printed before it died.
    return _MALLOC | inherited | {"PYTHONUNBUFFERED": "1"}


@dataclass(frozen=True)
class Command:
    """A program, its arguments and its environment."""

    argv: tuple[str, ...]
    environment: dict[str, str] = field(default_factory=engine_environment)


def lower_priority(pid: int, niceness: int) -> None:
    """Increase the niceness of a process that leads a process group and a session, and of all its threads.

    Linux can schedule sessions as units (autogroups); niceness then counts only within a session, and the session has a
    separate niceness.
    """
    niceness = min(19, os.getpriority(os.PRIO_PROCESS, pid) + niceness)
    os.setpriority(os.PRIO_PGRP, pid, niceness)
    with contextlib.suppress(OSError):  # no autogroups, or another session changed its niceness at the same moment
        Path(f"/proc/{pid}/autogroup").write_text(str(niceness))


class Process:
    """A running child process and its process group. `ended` and `wake` are set after the process has exited.

    Its niceness is that of this process plus `niceness`.
    """

    def __init__(self, command: Command, log_file: Path, wake: threading.Event, niceness: int = 0) -> None:
        # The child waits for end of file on this pipe. The kernel closes the parent's writing end when the parent dies
        # for any reason.
        reading, writing = os.pipe()
        self._pipe: int | None = writing
        self._closing = threading.Lock()
        with log_file.open("ab") as log:
            try:
                self._process = subprocess.Popen(
                    command.argv,
                    env={**command.environment, PARENT_FD: str(reading)},
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                    pass_fds=(reading,),
                )
            except OSError:
                os.close(writing)
                raise
            finally:
                os.close(reading)
        self.pid = self._process.pid
        lower_priority(self.pid, niceness)
        self.ended = threading.Event()
        self._wake = wake
        # A blocking wait needs no processor time, whereas Popen.wait with a timeout polls.
        threading.Thread(target=self._wait, name="process-wait", daemon=True).start()

    @property
    def returncode(self) -> int | None:
        """Exit status, negative signal number if a signal ended the process, or None while the process is running."""
        return self._process.returncode if self.ended.is_set() else None

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to the whole process group, unless the process has ended."""
        with contextlib.suppress(ProcessLookupError):
            if not self.ended.is_set():
                os.killpg(self.pid, number)

    def terminate(self, grace: float) -> None:
        """Send SIGTERM to the process group, and SIGKILL if the process is still running after `grace` seconds."""
        self.signal(signal.SIGTERM)
        self.ended.wait(grace)
        self.signal(signal.SIGKILL)
        self.ended.wait()

    def close(self) -> None:
        """Kill the process group if it is still running, and close the pipe. Idempotent and thread-safe."""
        self.signal(signal.SIGKILL)
        self.ended.wait()
        with self._closing:
            if self._pipe is not None:
                os.close(self._pipe)
                self._pipe = None

    def _wait(self) -> None:
        # WNOWAIT keeps the dead child's id allocated, so that the signal can only reach the child's group.
        os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOWAIT)
        os.killpg(self.pid, signal.SIGKILL)
        self._process.wait()
        self.ended.set()
        self._wake.set()
