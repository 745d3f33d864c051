"""API keys: who may ask for what."""

from collections.abc import Iterator, Sequence
from datetime import datetime

from service.api.keys.schemas import KeyMade, KeyView
from service.client.transport import Id, Transport


class Keys:
    """The routes under `/keys`."""

    _transport: Transport

    def create_key(
        self,
        name: str,
        scopes: Sequence[str],
        *,
        expires_at: datetime | None = None,
        max_open_jobs: int | None = None,
        requests_per_minute: int | None = None,
    ) -> KeyMade:
        """Make a key; its secret is in this answer alone."""
        spec = {
            "name": name,
            "scopes": list(scopes),
            "expires_at": expires_at.isoformat() if expires_at else None,
            "max_open_jobs": max_open_jobs,
            "requests_per_minute": requests_per_minute,
        }
        return self._transport.read(KeyMade, "POST", "/keys", json=spec)

    def keys(self) -> Iterator[KeyView]:
        """All keys, newest first, fetched page by page."""
        return self._transport.pages(KeyView, "/keys", {})

    def key(self, id: Id) -> KeyView:
        """A key without its secret."""
        return self._transport.read(KeyView, "GET", f"/keys/{id}")

    def revoke_key(self, id: Id) -> KeyView:
        """Take a key back: from the next request on it is refused."""
        return self._transport.read(KeyView, "DELETE", f"/keys/{id}")
