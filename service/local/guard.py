"""Ends what a killed `g2rpo up` left running: a process that waits on a pipe, and does at its end what `up` would have.

It is told on standard input, one JSON line at a time, what runs at the moment; the last line counts. An empty list is
the orderly end. Only the standard library is imported, so that it is small and starts before everything else.
"""

import contextlib
import json
import os
import shutil
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TypedDict


class Part(TypedDict):
    """A process to end: parts of a lower `stage` first, those of one stage together."""

    pid: int
    stage: int
    signal: int
    grace: float
    sockets: str | None
    """A link to the directory of its sockets, removed after it."""


def stop(parts: Sequence[Part]) -> None:
    """End `parts` in order: each gets its signal, and SIGKILL to its whole session after its grace."""
    for stage in sorted({part["stage"] for part in parts}):
        together = [part for part in parts if part["stage"] == stage]
        for part in together:
            with contextlib.suppress(ProcessLookupError):
                os.kill(part["pid"], part["signal"])
        begun = time.monotonic()
        for part in together:
            while alive(part["pid"]) and time.monotonic() - begun < part["grace"]:
                time.sleep(0.02)
            with contextlib.suppress(ProcessLookupError):
                os.killpg(part["pid"], signal.SIGKILL)
            _remove_sockets(part["sockets"])


def alive(pid: int) -> bool:
    """Whether the process runs. One that has ended stays a zombie until its parent asks, and does not count."""
    with contextlib.suppress(ChildProcessError):
        os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    try:
        status = Path(f"/proc/{pid}/stat").read_bytes()
    except FileNotFoundError:
        return _answers_signals(pid) if not Path("/proc/self").exists() else False
    except ProcessLookupError:
        return False
    return status.rpartition(b")")[2].split()[0] not in (b"Z", b"X")


def _answers_signals(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def _remove_sockets(link: str | None) -> None:
    if link is not None and Path(link).is_symlink():
        target = Path(link).readlink()
        if target.name.startswith("g2rpo-"):
            shutil.rmtree(target, ignore_errors=True)
        Path(link).unlink(missing_ok=True)


def main() -> None:
    """Read until the pipe ends, then end what the last whole line named."""
    # Whoever ends `up` by a signal to its terminal or group means `up`, which tells this process in its own time.
    for ignored in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(ignored, signal.SIG_IGN)
    parts: list[Part] = []
    for line in sys.stdin:
        if line.endswith("\n"):
            parts = json.loads(line)
    stop(parts)


if __name__ == "__main__":
    main()
