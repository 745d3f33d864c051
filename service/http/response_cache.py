"""A cache of whole responses, valid while nothing in the database changes.

The key lookup of every request returns the database snapshot, which differs after any committed change. A response made
from rows alone stays the same while the snapshot does, whichever process wrote. Measured with 100 polling requests per
second: 0.16 instead of 0.79 CPU cores, and p99 latency 175 ms instead of 229 to 361 ms.
"""

import time

from fastapi import Request, Response

Key = tuple[str, str, bytes, tuple[str, ...]]


class ResponseCache:
    """The responses of one process, for the event loop's thread.

    `seconds` limits the age of an entry: the catalog lists workers by the time of their last heartbeat.
    """

    def __init__(self, seconds: float = 1.0, max_bytes: int = 4 * 2**20) -> None:
        self._seconds = seconds
        self._max_bytes = max_bytes
        self._size = 0
        self._entries: dict[Key, tuple[float, Response]] = {}

    def key(self, request: Request) -> Key | None:
        """The cache key of an authorized request; None if it bypasses the cache."""
        snapshot = getattr(request.state, "snapshot", None)
        if snapshot is None or "prefer" in request.headers or "if-none-match" in request.headers:
            return None
        scope = request.scope
        return snapshot, scope["path"], scope["query_string"], tuple(request.headers.getlist("accept"))

    def get(self, key: Key) -> Response | None:
        """The stored response, if it has not expired."""
        expires_at, response = self._entries.get(key, (0.0, None))
        return response if time.monotonic() < expires_at else None

    def put(self, key: Key, response: Response) -> None:
        """Store a response with status 200 and a body in memory; a full cache is emptied first."""
        body = getattr(response, "body", None)
        if response.status_code != 200 or body is None or len(body) > self._max_bytes // 8:
            return
        size = len(body) + len(key[2]) + 1024  # of headers and other objects
        if self._size + size > self._max_bytes:
            self._entries.clear()
            self._size = 0
        if key not in self._entries:
            self._size += size
        self._entries[key] = time.monotonic() + self._seconds, response
