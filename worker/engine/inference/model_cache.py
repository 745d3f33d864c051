"""A cache of loaded models and rewards that the requests of a process share.

The least recently used object is evicted first.
"""

import gc
import json
import sys
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import psutil

Loaded = TypeVar("Loaded")
_CACHE_BYTES = min(32 * 2**30, psutil.virtual_memory().total // 2)
_OWN_BYTES = 2 * 2**30
"""Device memory of this process outside torch's allocator, for CUDA's context and libraries, with a margin."""


class ModelCache:
    """Keeps the most recently used object, and others as long as the total size is at most `max_bytes`.

    One thread may load objects while another releases them.
    """

    def __init__(self, max_bytes: int = _CACHE_BYTES, clock: Callable[[], float] = time.monotonic) -> None:
        self._max_bytes, self._clock = max_bytes, clock
        self._cached: OrderedDict[tuple[type, str], tuple[object, int]] = OrderedDict()
        self._lock = threading.Lock()
        self._requests = 0
        self._used_at: float | None = None
        """The time when the last request ended, or None if all objects have been released since."""

    @contextmanager
    def in_use(self) -> Iterator[None]:
        """Mark the enclosed block as a request, during which `release` does nothing. Can also be used as a decorator.

        Idle time starts when the request ends.
        """
        with self._lock:
            self._requests += 1
        try:
            yield
        finally:
            with self._lock:
                self._requests -= 1
                self._used_at = self._clock()

    def get(self, kind: type[Loaded], entry: str, load: Callable[[], Loaded], size: Callable[[Loaded], int]) -> Loaded:
        """Return the object for a catalog entry, loading it if it is not cached.

        entry: the complete entry as JSON, so that the object is loaded again if the entry changes. size: returns the
        object's size in bytes.
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
        """Release all objects, freeing their memory for other processes, and return the names of their entries.

        Does nothing during a request or until `idle_seconds` have passed since the last one.
        """
        with self._lock:
            if self._requests or self._used_at is None or self._clock() - self._used_at < idle_seconds:
                return []
            names = [str(json.loads(entry)["name"]) for _, entry in self._cached]
            self._cached.clear()
            self._used_at = None
        # Needed even if nothing was cached, because torch keeps the memory of a model that failed to load.
        gc.collect()  # the parts of a model form reference cycles
        if torch := _torch_with_cuda():
            torch.cuda.empty_cache()
        return names


MODEL_CACHE = ModelCache()
"""The cache for all models and rewards of this process, which share the memory of one device."""


def device_is_shared() -> bool | None:
    """Whether other processes use a substantial amount of memory on this process's GPU, or None if it uses no GPU."""
    if (torch := _torch_with_cuda()) is None:
        return None
    free, total = torch.cuda.mem_get_info()
    return bool(total - free - torch.cuda.memory_reserved() > _OWN_BYTES)


def _torch_with_cuda() -> Any:
    """Return the torch module if this process has imported it and initialized CUDA, otherwise None. Imports nothing."""
    torch: Any = sys.modules.get("torch")
    cuda = getattr(torch, "cuda", None)  # missing while another thread imports torch
    return torch if cuda is not None and cuda.is_initialized() else None
