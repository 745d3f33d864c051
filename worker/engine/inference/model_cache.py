"""Cache of loaded models and rewards, shared by the requests of a process; the least recently used is evicted first."""

import gc
import json
import sys
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

Loaded = TypeVar("Loaded")
_OWN_BYTES = 2 * 2**30
"""Device memory of this process besides torch's allocator: CUDA's context and libraries, with a margin."""


class ModelCache:
    """Keeps the most recently used object, and others while all together have at most `max_bytes`.

    One thread may load objects while another releases them.
    """

    def __init__(self, max_bytes: int = 32 * 2**30, clock: Callable[[], float] = time.monotonic) -> None:
        self._max_bytes, self._clock = max_bytes, clock
        self._cached: OrderedDict[tuple[type, str], tuple[object, int]] = OrderedDict()
        self._lock = threading.Lock()
        self._requests = 0
        self._used_at: float | None = None
        """End of the last request; None if everything was released since."""

    @contextmanager
    def in_use(self) -> Iterator[None]:
        """Mark a request, during which `release` does nothing; idle time starts at its end. Also a decorator."""
        with self._lock:
            self._requests += 1
        try:
            yield
        finally:
            with self._lock:
                self._requests -= 1
                self._used_at = self._clock()

    def get(self, kind: type[Loaded], entry: str, load: Callable[[], Loaded], size: Callable[[Loaded], int]) -> Loaded:
        """The object of a catalog entry, loaded if it is not cached.

        entry: the complete entry as JSON, so that a changed entry is loaded again. size: bytes of the object.
        """
        key = (kind, entry)
        with self.in_use():
            if key not in self._cached:
                loaded = load()
                self._cached[key] = (loaded, size(loaded))
                while len(self._cached) > 1 and sum(size for _, size in self._cached.values()) > self._max_bytes:
                    self._cached.popitem(last=False)
            self._cached.move_to_end(key)
            found = self._cached[key][0]
        assert isinstance(found, kind)
        return found

    def release(self, idle_seconds: float) -> list[str]:
        """Free the memory of all objects for other processes and return their entries' names.

        Does nothing during a request, nor for `idle_seconds` after the last one.
        """
        with self._lock:
            if self._requests or self._used_at is None or self._clock() - self._used_at < idle_seconds:
                return []
            names = [str(json.loads(entry)["name"]) for _, entry in self._cached]
            self._cached.clear()
            self._used_at = None
        # Even if nothing was cached: torch keeps the memory of a model that failed to load.
        gc.collect()  # the parts of a model refer to each other
        if torch := _torch_with_cuda():
            torch.cuda.empty_cache()
        return names


MODEL_CACHE = ModelCache()
"""Shared by models and rewards of this process, which share the memory of one device."""


def device_is_shared() -> bool | None:
    """Whether other processes have much memory of this process's GPU; None if it uses none."""
    if (torch := _torch_with_cuda()) is None:
        return None
    free, total = torch.cuda.mem_get_info()
    return bool(total - free - torch.cuda.memory_reserved() > _OWN_BYTES)


def _torch_with_cuda() -> Any:
    """The module torch if this process has imported it and initialized CUDA, otherwise None. Imports nothing."""
    torch: Any = sys.modules.get("torch")
    cuda = getattr(torch, "cuda", None)  # missing while another thread imports torch
    return torch if cuda is not None and cuda.is_initialized() else None
