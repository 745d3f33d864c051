"""Images scored by rewards of the catalog, with rewards kept loaded between requests."""

import io
import logging
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from service.contracts.catalog import RewardEntry, load_catalog
from service.contracts.scores import RewardValue, RewardVersion
from worker.engine.inference.model_cache import Warm
from worker.engine.models.sources import fingerprint
from worker.engine.rewards import Reward, load_reward
from worker.engine.rewards.base import score_or_missing
from worker.engine.sampling import fastest_device

logger = logging.getLogger(__name__)

NO_NUMBER = "the reward gives no number for this image and prompt"
"""Why a value is missing where nothing was raised."""


@dataclass(frozen=True)
class _Loaded:
    """A reward, and what it is."""

    reward: Reward
    version: RewardVersion


class Scorer:
    """Scores images on one device, by rewards that stay loaded while `warm` keeps them."""

    def __init__(self, device: str | None = None, warm: Warm | None = None) -> None:
        self._device = fastest_device(device)
        self._warm = warm or Warm()

    def versions(self, names: Sequence[str]) -> list[RewardVersion]:
        """What the rewards are; each is loaded, and one that cannot be fails for itself alone. Raises KeyError."""
        catalog = load_catalog()
        return [self._loaded(catalog.reward(name))[1] for name in names]

    @torch.no_grad()
    def score(self, names: Sequence[str], pngs: Sequence[bytes], prompts: Sequence[str]) -> list[list[RewardValue]]:
        """Values of n images of one size and their n prompts: for each image one of each reward, in order."""
        images = torch.stack([pixels(png) for png in pngs]).to(self._device)
        catalog = load_catalog()
        by_reward = [self._values(catalog.reward(name), images, prompts) for name in names]
        return [list(values) for values in zip(*by_reward, strict=True)]

    def _values(self, entry: RewardEntry, images: Tensor, prompts: Sequence[str]) -> list[RewardValue]:
        name = entry.name
        reward, _, unloaded = self._loaded(entry)
        if reward is None:
            values, causes = torch.full((len(prompts),), torch.nan), [unloaded] * len(prompts)
        else:
            values, causes = score_or_missing(reward, name, images, prompts)
        found = []
        for value, cause in zip(values.tolist(), causes, strict=True):
            if value != value:
                said = (cause or NO_NUMBER)[:1000]
                found.append(RewardValue(reward=name, status="failed", value=None, normalised=None, cause=said))
            else:
                found.append(RewardValue(reward=name, status="ok", value=value, normalised=entry.normalised(value)))
        return found

    def _loaded(self, entry: RewardEntry) -> tuple[Reward | None, RewardVersion, str]:
        """The reward, what it is, and why it could not be loaded; "" where it is there."""
        about = {"name": entry.name, "kind": entry.kind, "scale": entry.scale, "range": entry.range}

        def load() -> _Loaded:
            reward = load_reward(entry, self._device)
            weights = fingerprint(entry.source) if entry.source is not None else None
            return _Loaded(reward, RewardVersion(**about, weights=weights, identity=reward.identity()))

        try:
            found = self._warm.get(_Loaded, entry.model_dump_json(), load, _bytes)
        except torch.OutOfMemoryError:
            raise
        except Exception as error:  # a reward may be anybody's code: the others are still wanted
            logger.warning("reward %s cannot be loaded", entry.name, exc_info=True)
            return None, RewardVersion(**about, weights=None), f"it cannot be loaded: {type(error).__name__}: {error}"
        return found.reward, found.version, ""


def pixels(png: bytes) -> Tensor:
    """A PNG as [3, height, width] in 0..1, float32."""
    with Image.open(io.BytesIO(png), formats=["PNG"]) as image:
        values = np.asarray(image.convert("RGB"), dtype=np.float32) / 255
    return torch.from_numpy(values).permute(2, 0, 1).contiguous()


def _bytes(loaded: _Loaded) -> int:
    modules = [part for part in vars(loaded.reward).values() if isinstance(part, nn.Module)]
    return sum(one.numel() * one.element_size() for module in modules for one in module.parameters())
