"""What this machine computes on, found without loading torch."""

import os
from pathlib import Path

_CARDS = Path("/proc/driver/nvidia/gpus")
_LIMITS = (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"))


def cards(root: Path = _CARDS) -> list[str]:
    """The models of the CUDA cards that are there."""
    names = []
    for file in sorted(root.glob("*/information")):
        model = next(line for line in file.read_text(encoding="utf-8").splitlines() if line.startswith("Model:"))
        names.append(model.removeprefix("Model:").strip())
    return names


def describe() -> str:
    """The devices, for people."""
    return ", ".join(cards()) or f"cpu ({_cores()} cores)"


def count(root: Path = _CARDS) -> int:
    """How many processes can have one each: the cards that this process may use, or else its cores."""
    found, visible = len(cards(root)), os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        found = min(found, len([card for card in visible.split(",") if card.strip() not in ("", "-1")]))
    return found or _cores()


def memory(limits: tuple[Path, ...] = _LIMITS) -> int:
    """Bytes of this machine's memory, or of what its container may have."""
    whole = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    said = [file.read_text(encoding="utf-8").strip() for file in limits if file.is_file()]
    return min([whole, *(int(limit) for limit in said if limit.isdecimal())])  # without a limit it says `max`


def _cores() -> int:
    return len(os.sched_getaffinity(0))
