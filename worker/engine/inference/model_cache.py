"""What a process keeps loaded between requests: models and rewards, the least recently used going first."""

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
"""More of a card than this process has of it beside torch's memory: CUDA's context and libraries."""


class Warm:
    """Keeps the most recently used thing, and the others while all together take no more than `most_bytes`.

    One thread may ask for things while another lets them go.
    """

    def __init__(self, most_bytes: int = 32 * 2**30, clock: Callable[[], float] = time.monotonic) -> None:
        self._most, self._clock = most_bytes, clock
        self._kept: OrderedDict[tuple[type, str], tuple[object, int]] = OrderedDict()
        self._lock = threading.Lock()
        self._requests = 0
        self._used_at: float | None = None
        """When the last request ended; None: all was let go since."""

    @contextmanager
    def in_use(self) -> Iterator[None]:
        """Within, which is a request's time: nothing is let go, except for want of room. Idle time begins afterwards.

        It decorates functions too.
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
        """The thing that a catalog's entry describes, loaded unless it is here; `size`: the bytes it takes.

        entry: all of it, as JSON: of an entry that the operator has changed, the former thing is another one.
        """
        key = (kind, entry)
        with self.in_use():
            if key not in self._kept:
                loaded = load()
                self._kept[key] = (loaded, size(loaded))
                while len(self._kept) > 1 and sum(taken for _, taken in self._kept.values()) > self._most:
                    self._kept.popitem(last=False)
            self._kept.move_to_end(key)
            found = self._kept[key][0]
        assert isinstance(found, kind)
        return found

    def let_go(self, idle_seconds: float) -> list[str]:
        """Let go of everything, for other processes to have the memory, and name the entries that went.

        None go while a request is in progress, nor for `idle_seconds` after the last.
        """
        with self._lock:
            if self._requests or self._used_at is None or self._clock() - self._used_at < idle_seconds:
                return []
            names = [str(json.loads(entry)["name"]) for _, entry in self._kept]
            self._kept.clear()
            self._used_at = None
        # Also where nothing was kept: a model for which there was no room leaves memory with torch.
        gc.collect()  # parts of a model refer to each other
        if torch := _torch_with_card():
            torch.cuda.empty_cache()
        return names


WARM = Warm()
"""What models and rewards of this process share, for the device's memory is one."""


def card_is_shared() -> bool | None:
    """Whether other processes have much memory of the card that this one computes on; None: it computes on none."""
    if (torch := _torch_with_card()) is None:
        return None
    free, total = torch.cuda.mem_get_info()
    return bool(total - free - torch.cuda.memory_reserved() > _OWN_BYTES)


def _torch_with_card() -> Any:
    """Torch, if this process has loaded it and CUDA with it; else None. Nothing is loaded to find out."""
    torch: Any = sys.modules.get("torch")
    cuda = getattr(torch, "cuda", None)  # while another thread imports torch, it has no such part yet
    return torch if cuda is not None and cuda.is_initialized() else None
