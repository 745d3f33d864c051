"""A wrong machine clock: shifts the wall-clock time that Python reads, and not the monotonic clock."""

import datetime
import time
from typing import Any


def move(seconds: float) -> None:
    """Shift `time.time` and `datetime.now` of this process. Call it before other modules import them."""
    real_time, real_ns, real = time.time, time.time_ns, datetime.datetime
    delta = datetime.timedelta(seconds=seconds)

    class _Any(type):
        def __instancecheck__(cls, instance: Any) -> bool:
            return isinstance(instance, real)

    class Moved(real, metaclass=_Any):  # type: ignore[valid-type,misc]
        __slots__ = ()  # compiled modules check the object's size

        @classmethod
        def now(cls, tz: datetime.tzinfo | None = None) -> Any:
            return real.now(tz) + delta

        @classmethod
        def utcnow(cls) -> Any:
            return real.now(datetime.UTC).replace(tzinfo=None) + delta

    time.time = lambda: real_time() + seconds
    time.time_ns = lambda: real_ns() + int(seconds * 1e9)
    datetime.datetime = Moved  # type: ignore[misc]
