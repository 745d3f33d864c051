"""Image scoring with rewards from the catalog, which are cached between requests."""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from service.contracts.catalog import RewardEntry, load_catalog
from service.contracts.scores import RewardValue, RewardVersion
from worker.engine.inference.model_cache import ModelCache
from worker.engine.models.images import read_png
from worker.engine.models.sources import fingerprint
from worker.engine.precision import default_device
from worker.engine.rewards import Reward, load_reward
from worker.engine.rewards.base import score_or_missing

logger = logging.getLogger(__name__)

NO_NUMBER = "the reward returned no number for this image and prompt"
"""The cause of a missing value if no exception was raised."""


@dataclass(frozen=True)
class _Loaded:
    """A reward and its version. If the reward failed to load, it is None and `cause` gives the reason."""

    reward: Reward | None
    version: RewardVersion
    cause: str = ""


class ImageScorer:
    """Scores images on one device, with rewards from a cache."""

    def __init__(self, device: str | None = None, cache: ModelCache | None = None) -> None:
        self._device, self._cache = default_device(device), cache or ModelCache()

    def versions(self, names: Sequence[str]) -> list[RewardVersion]:
        """Load the named rewards and return their versions, including those of rewards that fail to load.

        Raises KeyError if a name is not in the catalog.
        """
        catalog = load_catalog()
        return [self._load(catalog.reward(name)).version for name in names]

    @torch.no_grad()
    def score(
        self,
        names: Sequence[str],
        pngs: Sequence[bytes],
        prompts: Sequence[str],
        check: Callable[[], None] = lambda: None,
    ) -> list[list[RewardValue]]:
        """Return the value of each named reward for each of n images and their n prompts.

        All images must have the same size. `check` is called before each reward and may raise. Raises KeyError if a
        name is not in the catalog.
        """
        images = torch.stack([read_png(png) for png in pngs]).to(self._device)
        catalog = load_catalog()
        by_reward = []
        for name in names:
            check()
            by_reward.append(self._values(catalog.reward(name), images, prompts))
        return [list(values) for values in zip(*by_reward, strict=True)]

    def _values(self, entry: RewardEntry, images: Tensor, prompts: Sequence[str]) -> list[RewardValue]:
        loaded = self._load(entry)
        if loaded.reward is None:
            values, causes = torch.full((len(prompts),), torch.nan), [loaded.cause] * len(prompts)
        else:
            values, causes = score_or_missing(loaded.reward, entry.name, images, prompts)
        return [_value(entry, value, cause) for value, cause in zip(values.tolist(), causes, strict=True)]

    def _load(self, entry: RewardEntry) -> _Loaded:
        about = {"name": entry.name, "kind": entry.kind, "scale": entry.scale, "range": entry.range}

        def load() -> _Loaded:
            reward = load_reward(entry, self._device)
            weights = fingerprint(entry.source) if entry.source is not None else None
            return _Loaded(reward, RewardVersion(**about, weights=weights, identity=reward.identity()))

        try:
            return self._cache.get(_Loaded, entry.model_dump_json(), load, _bytes)
        except torch.OutOfMemoryError:
            raise
        except Exception as error:  # rewards may be user code, and the other rewards are still needed
            logger.warning("reward %s cannot be loaded", entry.name, exc_info=True)
            cause = f"it cannot be loaded: {type(error).__name__}: {error}"
            return _Loaded(None, RewardVersion(**about, weights=None), cause)


def _value(entry: RewardEntry, value: float, cause: str) -> RewardValue:
    if value != value:
        cause = (cause or NO_NUMBER)[:1000]
        return RewardValue(reward=entry.name, status="failed", value=None, normalized=None, cause=cause)
    return RewardValue(reward=entry.name, status="ok", value=value, normalized=entry.normalized(value))


def _bytes(loaded: _Loaded) -> int:
    modules = [part for part in vars(loaded.reward).values() if isinstance(part, nn.Module)]
    return sum(weight.nbytes for module in modules for weight in module.parameters())
