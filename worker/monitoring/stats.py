"""Worker statistics, which are collected in this process and written with the heartbeat, for export to Prometheus.

A name may end with a dot and a label value, such as `jobs.failed` or `gpu_memory_used_bytes.0`.
`service.observability.database_metrics` lists the exported names with their descriptions.
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
"""Timeout of the query in seconds. It is needed because a faulty driver may never respond."""
_GPU_WAIT_SECONDS = 1.0
_MIB = 2**20


class Stats:
    """Thread-safe counters and gauges of this process."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._values: dict[str, float] = defaultdict(float)
        self._behind_since: dict[str, float] = {}

    def add(self, name: str, amount: float = 1.0) -> None:
        """Increase a counter, which starts at zero, by `amount`."""
        with self._lock:
            self._values[name] += amount

    def set_backlog(self, name: str, size: int) -> None:
        """Set `NAME_bytes` to the backlog's size. `NAME_seconds` becomes the time since the backlog was last empty."""
        with self._lock:
            self._values[f"{name}_bytes"] = size
            if size > 0:
                self._behind_since.setdefault(name, time.monotonic())
            else:
                self._behind_since.pop(name, None)
                self._values[f"{name}_seconds"] = 0.0

    def snapshot(self) -> dict[str, float]:
        """Return the current values by name."""
        now = time.monotonic()
        with self._lock:
            backlogs = {f"{name}_seconds": now - since for name, since in self._behind_since.items()}
            return dict(self._values) | backlogs


class GpuMemory:
    """Reads the memory of the GPUs visible to this process from `nvidia-smi`, which does not require loading torch.

    The query runs in a thread, for which the caller waits only briefly, so that a hanging driver cannot block the
    heartbeat.
    """

    def __init__(self, program: str = "nvidia-smi") -> None:
        self._program = program
        self._found: dict[str, float] = {}
        self._thread: threading.Thread | None = None

    def read(self) -> dict[str, float]:
        """Return the last known used and total bytes by GPU, or an empty dict if the machine has no GPUs."""
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
    """Parse lines of GPU index, used MiB and total MiB. GPUs that report `[N/A]` are skipped."""
    found: dict[str, float] = {}
    for line in output.splitlines():
        index, *sizes = (word.strip() for word in line.split(","))
        if len(sizes) == 2 and all(size.isdecimal() for size in sizes):
            found[f"gpu_memory_used_bytes.{index}"] = float(sizes[0]) * _MIB
            found[f"gpu_memory_total_bytes.{index}"] = float(sizes[1]) * _MIB
    return found


def disk(directory: Path) -> dict[str, float]:
    """Return the free bytes on the disk that contains `directory`, which need not exist yet."""
    existing = next(parent for parent in (directory.absolute(), *directory.absolute().parents) if parent.exists())
    return {"data_free_bytes": float(shutil.disk_usage(existing).free)}


STATS = Stats()
"""The statistics of this process."""
GPUS = GpuMemory()


def gather(data_dir: Path) -> dict[str, float]:
    """Return the `stats` of the heartbeat: this process's statistics and the machine's current state."""
    machine = {} if devices.gpus() else {"memory_total_bytes": float(devices.memory())}
    return STATS.snapshot() | GPUS.read() | disk(data_dir) | {"devices": float(devices.count())} | machine
