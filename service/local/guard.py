"""A process that ends what a killed `g2rpo up` left running. It waits on a pipe, which the kernel closes with `up`.

Each line on standard input is a JSON list of the running parts and replaces the previous one; an orderly end writes an
empty list. The module imports little, so that the guard is small and starts before the other processes.
"""

import contextlib
import json
import os
import signal
import sys
import time
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path
from typing import TypedDict

import psutil

from service.local.server import remove_sockets


class Part(TypedDict):
    """A process to end: lower stages first, parts of one stage together."""

    pid: int
    stage: int
    signal: int
    grace: float
    data: str | None
    """Data directory of a server, whose sockets are removed after the process."""


def stop(parts: Sequence[Part]) -> None:
    """End `parts` in order: send each its signal, and SIGKILL to its whole session after its grace period."""
    for _, stage in groupby(sorted(parts, key=lambda part: part["stage"]), key=lambda part: part["stage"]):
        together = list(stage)
        for part in together:
            with contextlib.suppress(ProcessLookupError):
                os.kill(part["pid"], part["signal"])
        start = time.monotonic()
        for part in together:
            while is_alive(part["pid"]) and time.monotonic() - start < part["grace"]:
                time.sleep(0.02)
            with contextlib.suppress(ProcessLookupError):
                os.killpg(part["pid"], signal.SIGKILL)
            if part["data"] is not None:
                remove_sockets(Path(part["data"]))


def is_alive(pid: int) -> bool:
    """Whether the process runs. A process that has ended is a zombie until its parent waits for it."""
    try:
        return psutil.Process(pid).status() not in (psutil.STATUS_ZOMBIE, psutil.STATUS_DEAD)
    except psutil.NoSuchProcess:
        return False


def main() -> None:
    """Read until the pipe is closed, then end the parts of the last complete line."""
    # A signal to the terminal or process group is for `up`, which ends the guard itself.
    for ignored in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(ignored, signal.SIG_IGN)
    parts: list[Part] = []
    for line in sys.stdin:
        if line.endswith("\n"):
            parts = json.loads(line)
    stop(parts)


if __name__ == "__main__":
    main()
