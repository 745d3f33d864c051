"""Child processes: the command to execute, and a process group that ends together with its parent."""

import contextlib
import os
import signal
import subprocess
import threading
from dataclasses import dataclass, field
from pathlib import Path

from service.contracts.jobs import PARENT_FD

_SECRETS = (
    *("G2RPO_DATABASE_URL", "G2RPO_BROKER_URL", "G2RPO_STORAGE_URL", "G2RPO_ADMIN_KEY", "G2RPO_API_KEY"),
    *("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"),
)
"""Removed from the environment of the engine, which uses neither database, broker nor store and must not print them."""
_MALLOC = {"MALLOC_MMAP_THRESHOLD_": str(64 * 2**20), "MALLOC_TRIM_THRESHOLD_": str(128 * 2**20)}
"""By default glibc returns the memory of tensors to the kernel, which clears it again for the next tensor: on two cores
a tenth of a step's processor time."""


def engine_environment() -> dict[str, str]:
    """The environment of an engine process: this process's, without secrets."""
    inherited = {name: value for name, value in os.environ.items() if name not in _SECRETS}
    # Unbuffered: the log must contain everything that the process printed before it died.
    return _MALLOC | inherited | {"PYTHONUNBUFFERED": "1"}


@dataclass(frozen=True)
class Command:
    """A program with its arguments, and its environment."""

    argv: tuple[str, ...]
    environment: dict[str, str] = field(default_factory=engine_environment)


class Process:
    """A running child process and its group. `ended` is set, and `wake` too, when it has exited."""

    def __init__(self, command: Command, log_file: Path, wake: threading.Event) -> None:
        # The child waits for the end of this pipe. The kernel closes the writing end of a parent that dies, whatever
        # the cause.
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
        self.ended = threading.Event()
        self._wake = wake
        # A blocking wait needs no processor time; Popen.wait with a timeout polls.
        threading.Thread(target=self._wait, name="process-wait", daemon=True).start()

    @property
    def returncode(self) -> int | None:
        """Exit status, or the negative number of the signal that terminated it; None while it runs."""
        return self._process.returncode if self.ended.is_set() else None

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to the whole group, unless it has ended."""
        with contextlib.suppress(ProcessLookupError):
            if not self.ended.is_set():
                os.killpg(self.pid, number)

    def terminate(self, grace: float) -> None:
        """End the whole group: SIGTERM, and SIGKILL after `grace` seconds."""
        self.signal(signal.SIGTERM)
        self.ended.wait(grace)
        self.signal(signal.SIGKILL)
        self.ended.wait()

    def close(self) -> None:
        """Kill the group if it still runs, and close the pipe. Safe from any thread and more than once."""
        self.signal(signal.SIGKILL)
        self.ended.wait()
        with self._closing:
            if self._pipe is not None:
                os.close(self._pipe)
                self._pipe = None

    def _wait(self) -> None:
        # WNOWAIT keeps the dead child's id in use, so that the signal can only reach its own group.
        os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOWAIT)
        os.killpg(self.pid, signal.SIGKILL)
        self._process.wait()
        self.ended.set()
        self._wake.set()
