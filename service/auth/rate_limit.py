"""Limit the requests per minute of each key, counted across all API processes in the broker's Redis server.

Each key has a token bucket that refills evenly, implemented with the generic cell rate algorithm: one number per key,
updated by one script. The package `limits` offers no such bucket, only fixed and sliding windows, which admit bursts or
store every request. If the server is unavailable, all requests pass: after a failure, the server is not contacted for a
few seconds, so that requests do not wait for it.
"""

import math
import time
import uuid
from functools import cached_property
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, urlencode, urlsplit

import structlog

from service.auth.errors import RateLimited

if TYPE_CHECKING:
    from redis.commands.core import AsyncScript

_TIMEOUT = 0.1
"""Timeout in seconds for connecting, and for each response."""
_RETRY_SECONDS = 5.0
"""Seconds to wait after a failure before contacting the server again."""
_TAKE = """
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local window, limit = 60000, tonumber(ARGV[1])
local filled = math.max(tonumber(redis.call('GET', KEYS[1]) or now) - now, 0) + window / limit
if filled > window + 0.5 then
    return {0, 0, math.ceil(filled - window)}
end
redis.call('SET', KEYS[1], string.format('%.3f', now + filled), 'PX', math.ceil(filled))
return {1, math.floor((window - filled) * limit / window + 0.5), math.ceil(filled)}
"""
"""A script that takes one request from a bucket. KEYS is the bucket and ARGV the number of requests per minute.

Returns whether the request passes, how many requests remain, and the milliseconds until the bucket is full or, if the
request does not pass, until the next request would pass.
"""

log = structlog.get_logger()


class RateLimiter:
    """Counts requests in the Redis server at `broker_url`."""

    def __init__(self, broker_url: str) -> None:
        self._url = broker_url
        self._retry_at = 0.0

    async def take(self, key: uuid.UUID, per_minute: int) -> dict[str, str]:
        """Count a request of `key` and return the rate limit headers, or no headers if it could not be counted.

        Raises RateLimited if the key has exceeded its limit.
        """
        now = time.monotonic()
        if now < self._retry_at:
            return {}
        if self._retry_at:
            self._retry_at = now + _RETRY_SECONDS  # only this request tries the server; the others do not wait for it
        try:
            passes, remaining, milliseconds = await self._script(keys=[f"g2rpo:rate:{key}"], args=[per_minute])
        except Exception as error:
            # The driver raises many exception types, for example if the broker is not Redis. None may fail a request.
            self._retry_at = time.monotonic() + _RETRY_SECONDS
            log.warning("rate_limit_not_counted", error=type(error).__name__, seconds=_RETRY_SECONDS)
            return {}
        self._retry_at = 0.0
        seconds = str(math.ceil(milliseconds / 1000))
        headers = {"RateLimit-Limit": str(per_minute), "RateLimit-Remaining": str(remaining)}
        headers["RateLimit-Reset"] = seconds
        if not passes:
            raise RateLimited(
                f"Rate limit exceeded: {per_minute} requests per minute. Retry in {seconds} s",
                headers={**headers, "Retry-After": seconds},
            )
        return headers

    @cached_property
    def _script(self) -> "AsyncScript":
        from redis.asyncio import Redis  # imported for the first request with a key, not at startup
        from redis.asyncio.retry import Retry
        from redis.backoff import NoBackoff

        options: dict[str, Any] = {"socket_timeout": _TIMEOUT, "socket_connect_timeout": _TIMEOUT}
        client = Redis.from_url(_redis_url(self._url), retry=Retry(NoBackoff(), 0), **options)
        return client.register_script(_TAKE)

    async def close(self) -> None:
        """Close all connections. Afterwards, another event loop can use the limiter."""
        if "_script" in self.__dict__:
            await self._script.registered_client.aclose()
            del self._script


def _redis_url(broker_url: str) -> str:
    """Convert a Celery broker URL to the Redis driver's format, which differs for Unix sockets."""
    parts = urlsplit(broker_url)
    if parts.scheme != "redis+socket":
        return broker_url
    query = {"virtual_host": ["0"], **parse_qs(parts.query)}
    return f"unix://{parts.netloc}{parts.path}?{urlencode({'db': query['virtual_host'][0]})}"
