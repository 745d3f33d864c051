"""What a process keeps loaded between requests: models and rewards, the least recently used going first."""

from collections import OrderedDict
from collections.abc import Callable
from functools import cache
from typing import TypeVar

Loaded = TypeVar("Loaded")


class Warm:
    """Keeps the most recently used thing, and the others while all together take no more than `most_bytes`."""

    def __init__(self, most_bytes: int = 32 * 2**30) -> None:
        self._most = most_bytes
        self._kept: OrderedDict[tuple[type, str], tuple[object, int]] = OrderedDict()

    def get(self, kind: type[Loaded], entry: str, load: Callable[[], Loaded], size: Callable[[Loaded], int]) -> Loaded:
        """The thing that a catalog's entry describes, loaded unless it is here; `size`: the bytes it takes.

        entry: all of it, as JSON: of an entry that the operator has changed, the former thing is another one.
        """
        key = (kind, entry)
        if key not in self._kept:
            loaded = load()
            self._kept[key] = (loaded, size(loaded))
            while len(self._kept) > 1 and sum(taken for _, taken in self._kept.values()) > self._most:
                self._kept.popitem(last=False)
        self._kept.move_to_end(key)
        found = self._kept[key][0]
        assert isinstance(found, kind)
        return found


@cache
def of_this_process() -> Warm:
    """What models and rewards share, for the device's memory is one."""
    return Warm()
