"""Detection of this machine's devices and memory without loading torch."""

import os
from pathlib import Path

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


def _cores() -> int:
    return len(os.sched_getaffinity(0))
