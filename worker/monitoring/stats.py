"""What a worker measures of itself: counted where it happens, and written beside its heartbeat for Prometheus.

A name may end in `.` and the value of a label: `jobs.failed`, `gpu_memory_used_bytes.0`.
`service.observability.metrics.workers` says which names are shown, and what each one is.
"""

import os
import shutil
import subprocess
import threading
import time
from collections import defaultdict
from pathlib import Path

from worker.monitoring import devices

_GPU_QUERY = ("--query-gpu=index,memory.used,memory.total", "--format=csv,noheader,nounits")
_GPU_SECONDS = 5.0
"""A driver in trouble may never answer."""
_GPU_WAIT_SECONDS = 1.0
_MIB = 2**20


class Stats:
    """Numbers of this process, for any thread to write and read."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._values: dict[str, float] = defaultdict(float)
        self._behind_since: dict[str, float] = {}

    def set(self, name: str, value: float) -> None:
        """Say what `name` is now."""
        with self._lock:
            self._values[name] = value

    def add(self, name: str, amount: float = 1.0) -> None:
        """Count `name` up from zero, which it was when the process began."""
        with self._lock:
            self._values[name] += amount

    def behind(self, name: str, size: int) -> None:
        """Say that `size` bytes of `name` are yet to be done: `NAME_bytes`, and since when, `NAME_seconds`."""
        with self._lock:
            self._values[f"{name}_bytes"] = size
            if size > 0:
                self._behind_since.setdefault(name, time.monotonic())
            else:
                self._behind_since.pop(name, None)
                self._values[f"{name}_seconds"] = 0.0

    def snapshot(self) -> dict[str, float]:
        """Every number as it is now."""
        now = time.monotonic()
        with self._lock:
            lasting = {f"{name}_seconds": now - since for name, since in self._behind_since.items()}
            return dict(self._values) | lasting


class GpuMemory:
    """Memory of the cards this process may use, by `nvidia-smi`: torch is not in this process.

    The asking is done beside the caller, who is never held up for long: a heartbeat must not hang with a driver.
    """

    def __init__(self, program: str = "nvidia-smi") -> None:
        self._program = program
        self._found: dict[str, float] = {}
        self._asking: threading.Thread | None = None

    def read(self) -> dict[str, float]:
        """Bytes used and there, by card, as last heard of; nothing on a machine without such cards."""
        if shutil.which(self._program) is None or os.environ.get("CUDA_VISIBLE_DEVICES") in ("", "-1"):
            return {}
        if self._asking is None or not self._asking.is_alive():
            self._asking = threading.Thread(target=self._ask, name="gpu-memory", daemon=True)
            self._asking.start()
            self._asking.join(_GPU_WAIT_SECONDS)
        return self._found

    def _ask(self) -> None:
        visible = os.environ.get("CUDA_VISIBLE_DEVICES")
        command = [self._program, *_GPU_QUERY, *([f"--id={visible}"] if visible else [])]
        try:
            answer = subprocess.run(command, capture_output=True, text=True, timeout=_GPU_SECONDS, check=True).stdout
        except (OSError, subprocess.SubprocessError):
            self._found = {}
            return
        self._found = _gpu_memory(answer)


def _gpu_memory(answer: str) -> dict[str, float]:
    """From lines of card, MiB used, MiB there; a card that does not tell says `[N/A]` and is left out."""
    found: dict[str, float] = {}
    for line in answer.splitlines():
        index, *sizes = (word.strip() for word in line.split(","))
        if len(sizes) == 2 and all(size.isdecimal() for size in sizes):
            found[f"gpu_memory_used_bytes.{index}"] = float(sizes[0]) * _MIB
            found[f"gpu_memory_total_bytes.{index}"] = float(sizes[1]) * _MIB
    return found


def disk(directory: Path) -> dict[str, float]:
    """Bytes free where the worker keeps its jobs' files, whether or not the directory is there yet."""
    place = next(parent for parent in (directory.absolute(), *directory.absolute().parents) if parent.exists())
    return {"data_free_bytes": float(shutil.disk_usage(place).free)}


STATS = Stats()
"""The numbers of this process."""
GPUS = GpuMemory()


def gather(data_dir: Path) -> dict[str, float]:
    """What was counted, and the machine as it is now: the heartbeat's `stats`."""
    machine = {} if devices.cards() else {"memory_total_bytes": float(devices.memory())}
    return STATS.snapshot() | GPUS.read() | disk(data_dir) | {"devices": float(devices.count())} | machine
