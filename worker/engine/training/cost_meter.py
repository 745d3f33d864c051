"""Seconds, nfe and memory of a step, by part."""

import os
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

_RESIDENT = Path("/proc/self/statm")
_ROLLOUT = ("anchor", "branch", "continuation")


class Meter:
    """Counts what a step costs. On CUDA each part waits for the device, so that its seconds are its own."""

    def __init__(self, device: torch.device, passes: int = 1) -> None:
        self._device, self._passes = device, passes
        self.total_nfe = 0
        self.training_nfe = 0
        """Of rollouts alone: what methods are compared by."""
        self.total_images = 0
        self._lock = threading.Lock()
        self._within: Counter[str] = Counter()
        """How many lanes are in each part."""
        self._since = 0.0
        self._reset()

    def _reset(self) -> None:
        self._seconds: dict[str, float] = defaultdict(float)
        self._nfe: dict[str, int] = defaultdict(int)
        self._memory: dict[str, int] = defaultdict(int)

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Add the enclosed seconds to part `name`. Parts that lanes are in at the same time divide them."""
        self._move(name, 1)
        try:
            yield
        finally:
            self._move(name, -1)

    def _move(self, name: str, change: int) -> None:
        """Divide the time since the last such call among the lanes in a part; then one enters or leaves `name`."""
        with self._lock:
            now = self._now()
            lanes = sum(self._within.values())
            for part, number in self._within.items():
                self._seconds[part] += (now - self._since) * number / lanes
            self._since = now
            if change < 0:
                self._memory[name] = max(self._memory[name], self._bytes())
            elif self._device.type == "cuda":
                torch.cuda.reset_peak_memory_stats(self._device)
            self._within[name] += change
            self._within = +self._within

    def _now(self) -> float:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        return time.perf_counter()

    def _bytes(self) -> int:
        """On CUDA the most that was allocated since a part began; else what this process has in memory now."""
        if self._device.type == "cuda":
            return torch.cuda.max_memory_allocated(self._device)
        if not _RESIDENT.exists():  # not Linux
            return 0
        return int(_RESIDENT.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    def count(self, part: str, nfe: int) -> None:
        """Add network evaluations (samples, not calls) to part `name` and to the run's total.

        Where guidance takes several `passes` of the network, each sample's evaluation counts as so many.
        """
        nfe *= self._passes
        self._nfe[part] += nfe
        self.total_nfe += nfe
        if part in _ROLLOUT:
            self.training_nfe += nfe

    def count_images(self, images: int) -> None:
        """Add judged images to the run's total."""
        with self._lock:
            self.total_images += images

    def totals(self) -> dict[str, float]:
        """The metrics of the run's totals."""
        return {"nfe/total": float(self.total_nfe), "images/total": float(self.total_images)}

    def take(self) -> dict[str, float]:
        """The metrics since the last call, and the run's totals."""
        values: dict[str, float] = {f"seconds/{part}": seconds for part, seconds in self._seconds.items()}
        values |= {f"nfe/{part}": float(count) for part, count in self._nfe.items()}
        values |= self.totals()
        memory = {part: most for part, most in self._memory.items() if most}
        if memory:
            values |= {f"memory/{part}": float(most) for part, most in memory.items()}
            values["memory/peak_bytes"] = float(max(memory.values()))
        self._reset()
        return values
