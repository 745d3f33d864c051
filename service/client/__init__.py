"""The Python client of the service; see docs/get-started/python-client.md."""

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any

from service.api.catalog.schemas import CatalogView
from service.api.events.schemas import EvaluationEnd, EvaluationProgress, RunEnd, RunEvent, RunProgress
from service.api.keys.schemas import CreatedKeyView, KeyView
from service.client.benchmarks import Benchmarks
from service.client.checkpoints import Checkpoints
from service.client.errors import ApiError
from service.client.evaluations import Evaluations
from service.client.events import Event
from service.client.images import Images
from service.client.prompt_sets import PromptSets
from service.client.runs import Runs
from service.client.transport import DEFAULT_URL, Id
from service.contracts.plan import Plan

__all__ = [
    "DEFAULT_URL",
    "ApiError",
    "Client",
    "EvaluationEnd",
    "EvaluationProgress",
    "Event",
    "RunEnd",
    "RunEvent",
    "RunProgress",
]


class Client(Runs, Checkpoints, Images, Evaluations, Benchmarks, PromptSets):
    """A client with a typed method for every route, to be used as a context manager.

    Every method raises ApiError if its request fails.

    Args:
        url: Address of the service.
        key: API key, if the service requires one.
        timeout: Number of seconds without receiving any data after which a request fails.
        patience: Number of seconds for which failed requests are retried. A retried request is never executed twice.
    """

    def catalog(self) -> CatalogView:
        """Return the catalog, which lists the names that requests may use."""
        return self._read(CatalogView, "GET", "/catalog")

    def plan(self, spec: Mapping[str, Any]) -> Plan:
        """Compute the cost of a run without starting it."""
        return self._read(Plan, "POST", "/plans", json=dict(spec))

    def create_key(
        self,
        name: str,
        scopes: Sequence[str],
        *,
        expires_at: datetime | None = None,
        max_open_jobs: int | None = None,
        requests_per_minute: int | None = None,
    ) -> CreatedKeyView:
        """Create an API key. Only this result contains the secret."""
        spec = {
            "name": name,
            "scopes": list(scopes),
            "expires_at": expires_at.isoformat() if expires_at else None,
            "max_open_jobs": max_open_jobs,
            "requests_per_minute": requests_per_minute,
        }
        return self._read(CreatedKeyView, "POST", "/keys", json=spec)

    def keys(self) -> Iterator[KeyView]:
        """Iterate over all API keys, newest first."""
        return self._pages(KeyView, "/keys")

    def key(self, id: Id) -> KeyView:
        """Return an API key, without its secret."""
        return self._read(KeyView, "GET", f"/keys/{id}")

    def revoke_key(self, id: Id) -> KeyView:
        """Revoke an API key. Requests that use it are rejected from then on."""
        return self._read(KeyView, "DELETE", f"/keys/{id}")
