"""A worker's statistics: counted where events happen, and written with its heartbeat for Prometheus.

A name may end in `.` and the value of a label: `jobs.failed`, `gpu_memory_used_bytes.0`.
`service.observability.service_metrics` lists the exported names with their descriptions.
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
"""Timeout of a query: a faulty driver may never respond."""
_GPU_WAIT_SECONDS = 1.0
_MIB = 2**20


class Stats:
    """Numbers of this process; thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._values: dict[str, float] = defaultdict(float)
        self._behind_since: dict[str, float] = {}

    def add(self, name: str, amount: float = 1.0) -> None:
        """Increase a counter, which starts at zero."""
        with self._lock:
            self._values[name] += amount

    def set_backlog(self, name: str, size: int) -> None:
        """Set `NAME_bytes` to the `size` of a backlog; `NAME_seconds` is the time since it was last empty."""
        with self._lock:
            self._values[f"{name}_bytes"] = size
            if size > 0:
                self._behind_since.setdefault(name, time.monotonic())
            else:
                self._behind_since.pop(name, None)
                self._values[f"{name}_seconds"] = 0.0

    def snapshot(self) -> dict[str, float]:
        """The current numbers."""
        now = time.monotonic()
        with self._lock:
            backlogs = {f"{name}_seconds": now - since for name, since in self._behind_since.items()}
            return dict(self._values) | backlogs


class GpuMemory:
    """Memory of the GPUs this process may use, from `nvidia-smi`, because torch is not loaded in this process.

    A thread runs the query, and the caller waits briefly: a heartbeat must not hang with a driver.
    """

    def __init__(self, program: str = "nvidia-smi") -> None:
        self._program = program
        self._found: dict[str, float] = {}
        self._thread: threading.Thread | None = None

    def read(self) -> dict[str, float]:
        """Last known bytes used and in total by GPU; empty on a machine without GPUs."""
        if shutil.which(self._program) is None or os.environ.get("CUDA_VISIBLE_DEVICES") in ("", "-1"):
            return {}
        if self._thread is None or not self._thread.is_alive():
            self._thread = threading.Thread(target=self._query, name="gpu-memory", daemon=True)
            self._thread.start()
            self._thread.join(_GPU_WAIT_SECONDS)
        return self._found

    def _query(self) -> None:
        visible = os.environ.get("CUDA_VISIBLE_DEVICES")
        command = [self._program, *_GPU_QUERY, *([f"--id={visible}"] if visible else [])]
        try:
            output = subprocess.run(command, capture_output=True, text=True, timeout=_GPU_SECONDS, check=True).stdout
        except (OSError, subprocess.SubprocessError):
            self._found = {}
            return
        self._found = _parse(output)


def _parse(output: str) -> dict[str, float]:
    """Read lines of index, MiB used and MiB in total; a GPU that reports `[N/A]` is skipped."""
    found: dict[str, float] = {}
    for line in output.splitlines():
        index, *sizes = (word.strip() for word in line.split(","))
        if len(sizes) == 2 and all(size.isdecimal() for size in sizes):
            found[f"gpu_memory_used_bytes.{index}"] = float(sizes[0]) * _MIB
            found[f"gpu_memory_total_bytes.{index}"] = float(sizes[1]) * _MIB
    return found


def disk(directory: Path) -> dict[str, float]:
    """Free bytes on the disk of the worker's files, also before the directory exists."""
    existing = next(parent for parent in (directory.absolute(), *directory.absolute().parents) if parent.exists())
    return {"data_free_bytes": float(shutil.disk_usage(existing).free)}


STATS = Stats()
"""The numbers of this process."""
GPUS = GpuMemory()


def gather(data_dir: Path) -> dict[str, float]:
    """The counted numbers and the machine's current state: the heartbeat's `stats`."""
    machine = {} if devices.gpus() else {"memory_total_bytes": float(devices.memory())}
    return STATS.snapshot() | GPUS.read() | disk(data_dir) | {"devices": float(devices.count())} | machine
