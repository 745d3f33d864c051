"""A child process in a process group of its own, which ends when its parent does."""

import contextlib
import os
import signal
import subprocess
import threading
from pathlib import Path

from service.contracts.jobs import PARENT_FD
from worker.jobs.command import Launch


class Child:
    """A running child. `ended` is set when it has exited; `returncode` is then as subprocess gives it."""

    def __init__(self, launch: Launch, log_file: Path, wake: threading.Event) -> None:
        # The child waits for the end of this pipe: it comes when every copy of the writing end is closed, which the
        # kernel does for a process that dies, however it dies.
        reading, writing = os.pipe()
        self._pipe: int | None = writing
        self._closing = threading.Lock()
        with log_file.open("ab") as log:
            try:
                self._process = subprocess.Popen(
                    launch.argv,
                    env={**launch.environment, PARENT_FD: str(reading)},
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
        # A blocking wait costs nothing; Popen.wait with a timeout polls.
        self._waiter = threading.Thread(target=self._wait, name="child-wait", daemon=True)
        self._waiter.start()

    @property
    def returncode(self) -> int | None:
        """Exit status, or minus the signal that ended it; None while it runs."""
        return self._process.returncode if self.ended.is_set() else None

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to the whole group, unless it has ended."""
        with contextlib.suppress(ProcessLookupError):
            if not self.ended.is_set():
                os.killpg(self.pid, number)

    def end(self, grace: float) -> None:
        """End the whole group: SIGTERM, and SIGKILL for what is left after `grace` seconds."""
        self.signal(signal.SIGTERM)
        self.ended.wait(grace)
        self.signal(signal.SIGKILL)
        self.ended.wait()

    def close(self) -> None:
        """Kill the group if it still runs, and release the pipe. Any thread may, and more than once."""
        self.signal(signal.SIGKILL)
        self.ended.wait()
        with self._closing:
            if self._pipe is not None:
                os.close(self._pipe)
                self._pipe = None

    def _wait(self) -> None:
        # The first wait leaves the dead child's id in use, so that the signal to its group can only mean this group.
        os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOWAIT)
        os.killpg(self.pid, signal.SIGKILL)
        self._process.wait()
        self.ended.set()
        self._wake.set()
