"""How many requests a key may send in a minute: counted in the broker's server, for all API processes together.

Each key has a bucket of as many requests as it may send in a minute, which fills up evenly (the generic cell rate
algorithm: one number per key, changed by one script). Without the server nobody is refused and nobody waits: after a
failure it is left alone for some seconds.
"""

import math
import time
import uuid
from collections import Counter
from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import parse_qs, urlencode, urlsplit

import structlog

from service.auth.batching import Rounds
from service.auth.errors import RateLimited

if TYPE_CHECKING:
    from redis.commands.core import AsyncScript

_PATIENCE = 0.1
"""Seconds for each of connecting and answering."""
_REST = 5.0
"""Seconds for which a server that failed is left alone."""
_WINDOW = 60_000
_TAKE = """
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local window, limit, wanted = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
local each = window / limit
local full_at = math.max(tonumber(redis.call('GET', KEYS[1]) or now), now)
local taken = math.min(wanted, math.floor((window + 0.5 - (full_at - now)) / each))
if taken < 1 then
    return {0, 0, math.ceil(full_at - now + each - window)}
end
full_at = full_at + taken * each
local filled = full_at - now
redis.call('SET', KEYS[1], string.format('%.3f', full_at), 'PX', math.ceil(filled))
local left = math.floor((window - filled) * limit / window + 0.5)
return {taken, left, math.ceil(taken < wanted and filled + each - window or filled)}
"""
"""KEYS: the bucket; ARGV: milliseconds in which it fills, what it holds, how many are wanted. How many were taken, how
many are left, and milliseconds until it is full, or until one more can be taken if some were not."""

log = structlog.get_logger()


class _Bucket(NamedTuple):
    """A key, and how many requests it may send in a minute."""

    key: uuid.UUID
    per_minute: int


class _Taken(NamedTuple):
    """Whether a request may pass, how many more might, and seconds until all, or the next, may."""

    passes: bool
    left: int
    seconds: int


class RateLimiter:
    """Counts requests in the server at `broker_url`, those that come at the same time in one go."""

    def __init__(self, broker_url: str) -> None:
        self._url = broker_url
        self._rests_until = 0.0
        self._rounds = Rounds(self._count)

    async def take(self, key: uuid.UUID, per_minute: int) -> dict[str, str]:
        """Count a request of `key`; what the answer's headers say of it, if it was counted. Raises RateLimited."""
        now = time.monotonic()
        if now < self._rests_until:
            return {}
        if self._rests_until:
            self._rests_until = now + _REST  # one request tries whether the server is back; the others do not wait
        try:
            taken = await self._rounds.answer(_Bucket(key, per_minute))
        except Exception as error:
            # Whatever the driver raises, also of a URL that is none of its own: a limit is not worth an outage.
            self._rests_until = time.monotonic() + _REST
            log.warning("rate_limit_not_counted", error=type(error).__name__, seconds=_REST)
            return {}
        self._rests_until = 0.0
        seconds = str(taken.seconds)
        headers = {"RateLimit-Limit": str(per_minute), "RateLimit-Remaining": str(taken.left)}
        headers["RateLimit-Reset"] = seconds
        if not taken.passes:
            raise RateLimited(
                f"more than {per_minute} requests in a minute; send the next one in {seconds} s",
                headers={**headers, "Retry-After": seconds},
            )
        return headers

    async def _count(self, requests: Sequence[_Bucket]) -> list[_Taken]:
        """Take from each bucket what its requests want, the earlier ones first."""
        shares: dict[_Bucket, Iterator[_Taken]] = {}
        for bucket, wanted in Counter(requests).items():
            args = [_WINDOW, bucket.per_minute, wanted]
            taken, left, milliseconds = await self._script(keys=[f"g2rpo:rate:{bucket.key}"], args=args)
            seconds = math.ceil(milliseconds / 1000)
            shares[bucket] = (_Taken(n < taken, left + max(0, taken - 1 - n), seconds) for n in range(wanted))
        return [next(shares[bucket]) for bucket in requests]

    @cached_property
    def _script(self) -> "AsyncScript":
        from redis.asyncio import Redis  # what the first request with a key pays, and starting does not
        from redis.asyncio.retry import Retry
        from redis.backoff import NoBackoff

        options: dict[str, Any] = {"socket_timeout": _PATIENCE, "socket_connect_timeout": _PATIENCE}
        client = Redis.from_url(_redis_url(self._url), retry=Retry(NoBackoff(), 0), **options)
        return client.register_script(_TAKE)

    async def close(self) -> None:
        """Give up every connection. Another event loop may then use this."""
        if "_script" in self.__dict__:
            await self._script.registered_client.aclose()
            del self._script


def _redis_url(broker_url: str) -> str:
    """The broker's URL as the driver of the server itself writes it: Celery names unix sockets differently."""
    parts = urlsplit(broker_url)
    if parts.scheme != "redis+socket":
        return broker_url
    query = {"virtual_host": ["0"], **parse_qs(parts.query)}
    return f"unix://{parts.netloc}{parts.path}?{urlencode({'db': query['virtual_host'][0]})}"
