"""Base class for rewards computed by servers: concurrent requests, retries, and failure counts by kind."""

import logging
import threading
import time
from abc import abstractmethod
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from functools import partial

import torch
from PIL import Image
from torch import Tensor

from service.contracts.catalog import RewardEntry
from worker.engine.models.images import to_pil
from worker.engine.remote.http_client import Misconfigured, RequestFailed, RequestRejected, Server, retrying
from worker.engine.remote.request_pool import RequestPool
from worker.engine.rewards.base import Answers, RemoteReward

logger = logging.getLogger(__name__)

FIRST_WAIT = 1.0
"""Approximate time in seconds before the first retry."""


FAILURES = 5
"""Number of consecutive failed requests after which a server is considered down."""
PAUSE_SECONDS = 30.0
"""Pause in seconds before a single request checks whether the server is available again."""


class CircuitBreaker:
    """Circuit breaker that pauses requests to a server after repeated failures. Thread-safe.

    clock: returns the current time in seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._failed, self._cause, self._until = 0, "", 0.0

    def pause_cause(self) -> str | None:
        """Return why requests are paused, or None if a request may be sent.

        After each pause, one caller gets None and may try a request.
        """
        with self._lock:
            if self._failed < FAILURES:
                return None
            if self._clock() >= self._until:
                self._until = self._clock() + PAUSE_SECONDS
                return None
            return f"no request sent, because {self._failed} consecutive requests failed; the last error: {self._cause}"

    def answered(self) -> None:
        """Record that the server answered a request."""
        with self._lock:
            self._failed = 0

    def failed(self, cause: str) -> None:
        """Record a failed request."""
        with self._lock:
            self._failed, self._cause = self._failed + 1, cause
            if self._failed == FAILURES:
                self._until = self._clock() + PAUSE_SECONDS


class Unreadable(RequestFailed):
    """Raised if a response contains no value. `kind` is the failure kind that is counted."""

    def __init__(self, kind: str, detail: str) -> None:
        super().__init__(detail)
        self.kind = kind


class ServerReward(RemoteReward):
    """A reward that sends requests with up to `batch_size` images. Raises Misconfigured if its token is missing."""

    batch_size = 1
    """Maximum number of images per request."""

    def __init__(self, entry: RewardEntry, first_wait: float = FIRST_WAIT) -> None:
        self.entry = entry
        self._server = Server(f"reward {entry.name!r}", entry)
        self.server = self._server.host
        self._breaker = CircuitBreaker()
        self._retrying = retrying(threading.Event(), first_wait, entry.tries)
        self._pool: RequestPool[Answers] = RequestPool(entry.concurrency)

    @classmethod
    def load(cls, entry: RewardEntry, device: torch.device) -> "ServerReward":
        return cls(entry)

    @abstractmethod
    def ask(self, images: Sequence[Image.Image], prompts: Sequence[str]) -> Answers:
        """Send one request and return its answers.

        Raises RequestFailed (including Unreadable), RequestRejected or Misconfigured.
        """

    def begin(
        self, images: Tensor, prompts: Sequence[str], check: Callable[[], None] = lambda: None
    ) -> "list[Future[Answers]]":
        pil_images = [to_pil(image) for image in images.nan_to_num().cpu()]
        starts = range(0, len(prompts), self.batch_size)
        parts = [slice(start, start + self.batch_size) for start in starts]
        return [self._pool.submit(partial(self._request, pil_images[part], prompts[part]), check) for part in parts]

    def _request(self, images: Sequence[Image.Image], prompts: Sequence[str]) -> Answers:
        if (cause := self._breaker.pause_cause()) is not None:
            return nothing(len(prompts), "not_asked", cause)
        try:
            answers = self._retrying(self.ask, images, prompts)
        except (RequestRejected, RequestFailed, Misconfigured) as error:
            kind = "refused" if isinstance(error, RequestRejected) else getattr(error, "kind", "no_answer")
            self._breaker.failed(str(error)) if kind == "no_answer" else self._breaker.answered()
            logger.warning("reward %s has no value for %d images (%s): %s", self.entry.name, len(prompts), kind, error)
            return nothing(len(prompts), kind, str(error))
        except Exception as error:  # a bug must neither count as a value nor end the thread
            logger.exception("reward %s", self.entry.name)
            return nothing(len(prompts), "error", f"{type(error).__name__}: {error}")
        self._breaker.answered()
        return answers


def nothing(number: int, kind: str, cause: str) -> Answers:
    """Return answers for `number` images that have no value, all for the same cause."""
    return Answers((float("nan"),) * number, Counter({kind: number}), cause)
