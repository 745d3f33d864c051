"""What a process and everything it starts cost: processor seconds and memory."""

import os
import resource
import threading
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

import psutil

_EVERY_SECONDS = 10.0
"""A look makes the kernel walk every page table, on the cores that the run uses."""


@dataclass(frozen=True)
class Processor:
    """Processor seconds, user and system."""

    own: float
    children: float
    """Of children that have ended and were waited for, and of theirs."""


def processor(pid: int | None = None) -> Processor:
    """What a process has used so far; None is this one. Nothing for a process that is gone."""
    if pid is None or pid == os.getpid():
        usages = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
        return Processor(*(usage.ru_utime + usage.ru_stime for usage in usages))
    try:
        times = psutil.Process(pid).cpu_times()
    except psutil.NoSuchProcess:
        return Processor(0.0, 0.0)
    return Processor(times.user + times.system, times.children_user + times.children_system)


class Memory:
    """Watches the memory of this process and all its descendants while the block runs."""

    def __init__(self) -> None:
        self.peak_bytes = 0
        """The largest sum seen, each shared page counted once (PSS). Peaks between two looks are missed."""
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="memory", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        self._thread.join()

    def _watch(self) -> None:
        while True:
            self.peak_bytes = max(self.peak_bytes, tree_bytes())
            if self._ended.wait(_EVERY_SECONDS):
                return


def tree_bytes() -> int:
    """Memory of this process and its descendants now."""
    me = psutil.Process()
    return sum(_proportional_bytes(process.pid) for process in [me, *me.children(recursive=True)])


def _proportional_bytes(pid: int) -> int:
    """PSS of one process, 0 when it is gone or another user's. The kernel adds up the mappings."""
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="ascii").splitlines()
    except (OSError, UnicodeDecodeError):
        return 0
    return sum(int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss:"))
