"""Decoding latents and scoring the pictures, in batches, with failures counted."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor

from worker.lanes import Check, Lanes
from worker.models.base import FlowModel, PictureSize
from worker.rewards.base import Reward, score_or_missing
from worker.training.meter import Meter


class RewardsFailed(Exception):
    """Every reward failed on every picture of a step."""


@dataclass
class Scorer:
    """Decodes and scores. `causes` keeps each reward's latest failure."""

    model: FlowModel
    rewards: dict[str, Reward]
    size: PictureSize
    batch_size: int
    meter: Meter
    check: Check
    offload: bool = False
    """Whether rewards stay on the CPU while they do not score."""
    causes: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.offload:
            self._set_aside()

    def score(self, latents: Tensor, prompts: Sequence[str], names: Sequence[str], part: str = "") -> Tensor:
        """Values [rewards, pictures] on the CPU of clean `latents` [pictures, …]; NaN where a reward failed.

        `part` goes before the names under which seconds are counted.
        """
        lanes = Lanes.on(latents.device, self.batch_size)

        def batch(start: int) -> Callable[[Check], Tensor]:
            rows = slice(start, start + lanes.batch_size)
            return lambda check: self._batch(latents[rows], prompts[rows], names, part, check)

        starts = range(0, len(latents), lanes.batch_size)
        with self._at_hand(names, latents.device):
            values = lanes.run([batch(start) for start in starts], self.check)
        return torch.cat([torch.empty(len(names), 0), *values], dim=1)

    @contextmanager
    def _at_hand(self, names: Sequence[str], device: torch.device) -> Iterator[None]:
        if not self.offload:
            yield
            return
        try:
            for name in names:
                self.rewards[name].move(device)
            yield
        finally:
            self._set_aside()

    def _set_aside(self) -> None:
        for reward in self.rewards.values():
            reward.move(torch.device("cpu"))

    def _batch(self, latents: Tensor, prompts: Sequence[str], names: Sequence[str], part: str, check: Check) -> Tensor:
        check()
        pictures = self.decode(latents, part)
        self.meter.count_images(len(latents))
        with self.meter.part(f"{part}reward"):
            return torch.stack([self._score(name, pictures, prompts) for name in names])

    def decode(self, latents: Tensor, part: str = "") -> Tensor:
        """Pictures [n, 3, height, width] in 0..1 of a batch of latents."""
        with self.meter.part(f"{part}decode"):
            return self.model.decode(latents, self.size)

    def _score(self, name: str, pictures: Tensor, prompts: Sequence[str]) -> Tensor:
        values, cause = score_or_missing(self.rewards[name], name, pictures, prompts)
        if cause:
            self.causes[name] = cause
        drawn = pictures.isfinite().flatten(1).all(dim=1).cpu()
        return torch.where(drawn, values, torch.nan)

    def refuse_all_missing(self, values: Tensor) -> None:
        """Raise RewardsFailed with the causes when not one of `values` is there."""
        if not values.isfinite().any():
            causes = "; ".join(f"{name}: {cause}" for name, cause in self.causes.items())
            raise RewardsFailed(f"every reward failed on every picture of the step. {causes or 'All values were NaN.'}")
