"""Measurement of the time, NFE and memory that each part of a training step uses.

NFE is the number of function evaluations: the samples that pass through the network.
"""

import os
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from worker.engine.training.distributed import Distributed

_STATM = Path("/proc/self/statm")
_ROLLOUT = ("anchor", "branch", "continuation")


class CostMeter:
    """Measures the cost of each step. On CUDA, entering and leaving a part synchronizes the device.

    passes: forward passes of the network per velocity (2 with classifier-free guidance).
    """

    def __init__(self, distributed: Distributed, passes: int = 1) -> None:
        self._distributed, self._device, self._passes = distributed, distributed.device, passes
        self.total_nfe = 0
        self.training_nfe = 0
        """The NFE of rollouts only, which is the cost used to compare methods."""
        self.total_images = 0
        self._lock = threading.Lock()
        self._active: Counter[str] = Counter()
        """The number of threads inside each part."""
        self._changed_at = 0.0
        self._reset()

    def _reset(self) -> None:
        self._seconds: dict[str, float] = defaultdict(float)
        self._nfe: dict[str, int] = defaultdict(int)
        self._memory: dict[str, int] = defaultdict(int)

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Add the duration of the enclosed block to part `name`.

        Threads that are inside parts simultaneously share the time.
        """
        self._switch(name, 1)
        try:
            yield
        finally:
            self._switch(name, -1)

    def _switch(self, name: str, change: int) -> None:
        """Divide the time since the last call among the parts of the active threads, then enter or leave part `name`.

        change: 1 if a thread enters the part, −1 if it leaves.
        """
        with self._lock:
            now = self._now()
            threads = sum(self._active.values())
            for part, number in self._active.items():
                self._seconds[part] += (now - self._changed_at) * number / threads
            self._changed_at = now
            if change < 0:
                self._memory[name] = max(self._memory[name], self._bytes())
            elif self._device.type == "cuda":
                torch.cuda.reset_peak_memory_stats(self._device)
            self._active[name] += change
            self._active = +self._active

    def _now(self) -> float:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        return time.perf_counter()

    def _bytes(self) -> int:
        """Return the peak allocation since a part was entered on CUDA, otherwise this process's resident memory."""
        if self._device.type == "cuda":
            return torch.cuda.max_memory_allocated(self._device)
        if not _STATM.exists():  # not Linux
            return 0
        return int(_STATM.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    def count(self, part: str, nfe: int) -> None:
        """Add the NFE of `nfe` velocities, counted in samples, to part `part` and to the totals."""
        nfe *= self._passes
        self._nfe[part] += nfe
        self.total_nfe += nfe
        if part in _ROLLOUT:
            self.training_nfe += nfe

    def count_images(self, images: int) -> None:
        """Add the number of scored images to the total."""
        with self._lock:
            self.total_images += images

    def totals(self) -> dict[str, float]:
        """Return the totals as metrics."""
        return {"nfe/total": float(self.total_nfe), "images/total": float(self.total_images)}

    def take(self) -> dict[str, float]:
        """Return the totals and the metrics accumulated since the last call."""
        values = {f"seconds/{part}": seconds for part, seconds in self._seconds.items()}
        values |= {f"nfe/{part}": float(count) for part, count in self._nfe.items()}
        values |= self.totals()
        memory = {f"memory/{part}": float(peak) for part, peak in self._memory.items() if peak}
        if memory:
            values |= {**memory, "memory/peak_bytes": max(memory.values())}
        self._reset()
        return values

    def state_dict(self) -> dict[str, Any]:
        """Return the totals over all processes."""
        own = (self.total_nfe, self.training_nfe, self.total_images)
        totals = zip(*self._distributed.all_gather_object(own), strict=True)
        return dict(zip(("nfe", "training_nfe", "images"), map(sum, totals), strict=True))

    def load_state_dict(self, state: dict[str, Any]) -> None:
        if self._distributed.is_main:  # each process counts its own work, so only one may continue the saved totals
            self.total_nfe, self.total_images = state["nfe"], state["images"]
            self.training_nfe = state["training_nfe"]
