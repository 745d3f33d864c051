"""A machine's clock that is wrong: what Python reads as the time of day, moved; the monotonic clock is left alone."""

import datetime
import time
from typing import Any


def move(seconds: float) -> None:
    """Have `time.time` and `datetime.now` of this process tell another time. Call it before anything imports them."""
    real_time, real_ns, real = time.time, time.time_ns, datetime.datetime
    delta = datetime.timedelta(seconds=seconds)

    class _Any(type):
        def __instancecheck__(cls, instance: Any) -> bool:
            return isinstance(instance, real)

    class Moved(real, metaclass=_Any):  # type: ignore[valid-type,misc]
        __slots__ = ()  # compiled modules look at the size

        @classmethod
        def now(cls, tz: datetime.tzinfo | None = None) -> Any:
            return real.now(tz) + delta

        @classmethod
        def utcnow(cls) -> Any:
            return real.now(datetime.UTC).replace(tzinfo=None) + delta

    time.time = lambda: real_time() + seconds
    time.time_ns = lambda: real_ns() + int(seconds * 1e9)
    datetime.datetime = Moved  # type: ignore[misc]
