"""Detection of this machine's devices and memory without loading torch."""

import contextlib
import os
from pathlib import Path

import psutil

_GPUS = Path("/proc/driver/nvidia/gpus")
_LIMITS = (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"))


def gpus(root: Path = _GPUS) -> list[str]:
    """Return the model names of the NVIDIA GPUs."""
    names = []
    for file in sorted(root.glob("*/information")):
        model = next(line for line in file.read_text(encoding="utf-8").splitlines() if line.startswith("Model:"))
        names.append(model.removeprefix("Model:").strip())
    return names


def describe() -> str:
    """Return a description of the devices for display."""
    return ", ".join(gpus()) or f"cpu ({_cores()} cores)"


def count(root: Path = _GPUS) -> int:
    """Return the number of visible GPUs, or the number of CPU cores if there are no GPUs.

    This is the maximum number of processes that can each use their own device.
    """
    found, visible = len(gpus(root)), os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        found = min(found, len([gpu for gpu in visible.split(",") if gpu.strip() not in ("", "-1")]))
    return found or _cores()


def memory(limits: tuple[Path, ...] = _LIMITS) -> int:
    """Return the size of this machine's memory, or the container's memory limit if lower, in bytes."""
    total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    values = [file.read_text(encoding="utf-8").strip() for file in limits if file.is_file()]
    return min([total, *(int(value) for value in values if value.isdecimal())])  # `max`: no limit


def memory_limit(setting: int | None) -> int:
    """Return the maximum memory of a job in bytes, by default 80% of the machine's or container's memory."""
    return setting or int(0.8 * memory())


def used_memory(pid: int | None = None) -> int:
    """Return the private resident memory of this process, or of process `pid` and its descendants, in bytes.

    Mapped files, such as weights, are not included, because the kernel can release them.
    """
    total = 0
    with contextlib.suppress(psutil.Error):  # the process has ended
        process = psutil.Process(pid)
        for one in [process, *(process.children(recursive=True) if pid is not None else ())]:
            with contextlib.suppress(psutil.Error):
                found = one.memory_info()
                total += found.rss - found.shared
    return total


def _cores() -> int:
    return len(os.sched_getaffinity(0))
