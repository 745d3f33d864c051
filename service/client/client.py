"""The client: every route as a typed method."""

from collections.abc import Mapping
from types import TracebackType
from typing import Any, Self

from service.api.catalog.schemas import CatalogView
from service.client.benchmarks import Benchmarks
from service.client.checkpoints import Checkpoints
from service.client.comparisons import Comparisons
from service.client.evaluations import Evaluations
from service.client.generations import Generations
from service.client.judgements import Judgements
from service.client.keys import Keys
from service.client.prompt_sets import PromptSets
from service.client.runs import Runs
from service.client.scores import Scores
from service.client.transport import Transport
from service.contracts.plan import Plan

DEFAULT_URL = "http://127.0.0.1:8000"


class Client(
    Runs, Comparisons, Checkpoints, Generations, Scores, Evaluations, Judgements, Benchmarks, PromptSets, Keys
):
    """A connection to the service at `url`, with an API key where it wants one. Every method raises ApiError.

    `timeout`: seconds of silence after which a request is given up. `patience`: seconds for which a request is sent
    again when it got no answer or came too early; what it did is not done twice.
    """

    def __init__(
        self, url: str = DEFAULT_URL, key: str | None = None, *, timeout: float = 60.0, patience: float = 10.0
    ) -> None:
        self.url = url
        self._transport = Transport(url, key, timeout, patience)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Give up the connection."""
        self._transport.close()

    def catalog(self) -> CatalogView:
        """What a request may name."""
        return self._transport.read(CatalogView, "GET", "/catalog")

    def plan(self, spec: Mapping[str, Any]) -> Plan:
        """What a run would cost; nothing is started."""
        return self._transport.read(Plan, "POST", "/plans", json=dict(spec))
