"""What rewards of servers share: requests side by side, tried again, and given up for a cause that is counted."""

import logging
import threading
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
from worker.engine.remote.request_pool import Askers
from worker.engine.remote.server import Fault, Refused, Server, SetUpWrongly, retrying
from worker.engine.rewards.base import Answers, RemoteReward
from worker.engine.rewards.circuit_breaker import Breaker

logger = logging.getLogger(__name__)

FIRST_WAIT = 1.0
"""Seconds, about, before a request is sent a second time."""


class Unreadable(Fault):
    """The server answered, but not with a value. `kind`: by what such answers are counted."""

    def __init__(self, kind: str, detail: str) -> None:
        super().__init__(detail)
        self.kind = kind


class ServerReward(RemoteReward):
    """A reward by requests of some images each. Raises SetUpWrongly where its token is missing."""

    batch_size = 1
    """Images of one request."""

    def __init__(self, entry: RewardEntry, first_wait: float = FIRST_WAIT) -> None:
        self.entry = entry
        self._server = Server(f"reward {entry.name!r}", entry)
        self.server = self._server.host
        self._breaker = Breaker()
        self._retrying = retrying(threading.Event(), first_wait, entry.tries)
        self._askers: Askers[Answers] = Askers(entry.concurrency)

    @classmethod
    def load(cls, entry: RewardEntry, device: torch.device) -> "ServerReward":
        return cls(entry)

    @abstractmethod
    def ask(self, images: Sequence[Image.Image], prompts: Sequence[str]) -> Answers:
        """Ask once. Raises Fault, of which Unreadable is one, Refused or SetUpWrongly."""

    def begin(
        self, images: Tensor, prompts: Sequence[str], check: Callable[[], None] = lambda: None
    ) -> "list[Future[Answers]]":
        pil_images = [to_pil(image) for image in images.nan_to_num().cpu()]
        starts = range(0, len(prompts), self.batch_size)
        parts = [slice(start, start + self.batch_size) for start in starts]
        return [
            self._askers.submit(partial(self._see_through, pil_images[part], prompts[part]), check) for part in parts
        ]

    def _see_through(self, images: Sequence[Image.Image], prompts: Sequence[str]) -> Answers:
        if (away := self._breaker.away()) is not None:
            return nothing(len(prompts), "not_asked", away)
        try:
            answers = self._retrying(self.ask, images, prompts)
        except Refused as refusal:
            self._breaker.answered()
            return self._failed(len(prompts), "refused", str(refusal))
        except Unreadable as error:
            self._breaker.answered()
            return self._failed(len(prompts), error.kind, str(error))
        except (Fault, SetUpWrongly) as error:
            self._breaker.failed(str(error))
            return self._failed(len(prompts), "no_answer", str(error))
        except Exception as error:  # a bug must not look like a value, nor end the thread
            logger.exception("reward %s", self.entry.name)
            return nothing(len(prompts), "error", f"{type(error).__name__}: {error}")
        self._breaker.answered()
        return answers

    def _failed(self, number: int, kind: str, cause: str) -> Answers:
        logger.warning("reward %s has no value for %d images (%s): %s", self.entry.name, number, kind, cause)
        return nothing(number, kind, cause)


def nothing(number: int, kind: str, cause: str) -> Answers:
    """So many images without a value, for one cause."""
    return Answers((float("nan"),) * number, Counter({kind: number}), cause)
