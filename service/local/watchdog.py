"""Watchdog process that stops the remaining processes of a killed `g2rpo up`.

The watchdog waits on a pipe that the kernel closes when `up` dies. Each line on standard input is a JSON list of the
running components and replaces the previous list. An orderly shutdown writes an empty list. The module has few
imports, so that the watchdog is small and starts before the other processes.
"""

import contextlib
import json
import os
import signal
import sys
import time
from collections.abc import Sequence
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import TypedDict

import psutil

from service.local.server import remove_sockets


class Component(TypedDict):
    """A process to stop. Lower stages are stopped first, and components of the same stage are stopped together."""

    pid: int
    stage: int
    signal: int
    grace: float
    data: str | None
    """Data directory of a server, whose sockets are removed once the process has stopped."""


def stop(components: Sequence[Component]) -> None:
    """Stop `components` in order: send each its signal and, after its grace period, SIGKILL to its process group."""
    for _, stage in groupby(sorted(components, key=itemgetter("stage")), key=itemgetter("stage")):
        together = list(stage)
        for component in together:
            with contextlib.suppress(ProcessLookupError):
                os.kill(component["pid"], component["signal"])
        start = time.monotonic()
        for component in together:
            while is_alive(component["pid"]) and time.monotonic() - start < component["grace"]:
                time.sleep(0.02)
            with contextlib.suppress(ProcessLookupError):
                os.killpg(component["pid"], signal.SIGKILL)
            if component["data"] is not None:
                remove_sockets(Path(component["data"]))


def is_alive(pid: int) -> bool:
    """Whether a process is running. An ended process that its parent has not waited for (a zombie) is not running."""
    try:
        return psutil.Process(pid).status() not in (psutil.STATUS_ZOMBIE, psutil.STATUS_DEAD)
    except psutil.NoSuchProcess:
        return False


def main() -> None:
    """Read lines until the pipe is closed, then stop the components listed in the last complete line."""
    # Signals sent to the terminal or process group are meant for `up`, which stops the watchdog itself.
    for ignored in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(ignored, signal.SIG_IGN)
    components: list[Component] = []
    for line in sys.stdin:
        if line.endswith("\n"):
            components = json.loads(line)
    stop(components)


if __name__ == "__main__":
    main()
