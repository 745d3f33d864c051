"""Decoding latents and scoring the images, in batches, with failures counted."""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, wait
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor

from worker.engine.cpu_parallel import Check, Lanes
from worker.engine.models.base import FlowModel, ImageSize
from worker.engine.rewards.base import Answers, RemoteReward, Reward, score_or_missing
from worker.engine.training.cost_meter import Meter

_LOOK_SECONDS = 0.5
"""How often, while servers are waited for, it is looked whether the run is to stop."""


@dataclass(frozen=True)
class Batch:
    """Values [rewards, n] of one batch of images, and the rows of them that servers are still asked for."""

    values: Tensor
    drawn: Tensor
    """Which images are finite: [n]."""
    asked: dict[int, list[Future[Answers]]]


@dataclass
class Scorer:
    """Decodes and scores. `causes` keeps each reward's latest failure, `missing` how many failed by NAME/KIND."""

    model: FlowModel
    rewards: dict[str, Reward]
    size: ImageSize
    batch_size: int
    meter: Meter
    check: Check
    offload: bool = False
    """Whether rewards stay on the CPU while they do not score."""
    causes: dict[str, str] = field(default_factory=dict)
    missing: Counter[str] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        if self.offload:
            self._set_aside()

    def score(self, latents: Tensor, prompts: Sequence[str], names: Sequence[str], part: str = "") -> Tensor:
        """Values [rewards, images] on the CPU of clean `latents` [images, …]; NaN where a reward failed.

        `part` goes before the names under which seconds are counted.
        """
        return self.finish(self.begin(latents, prompts, names, part), names, part)

    def begin(self, latents: Tensor, prompts: Sequence[str], names: Sequence[str], part: str = "") -> list[Batch]:
        """Decode and score, but for the rewards of servers, which are asked meanwhile and afterwards."""
        lanes = Lanes.on(latents.device, self.batch_size)

        def batch(start: int) -> Callable[[Check], Batch]:
            rows = slice(start, start + lanes.batch_size)
            return lambda check: self._batch(latents[rows], prompts[rows], names, part, check)

        starts = range(0, len(latents), lanes.batch_size)
        with self._at_hand(names, latents.device):
            return lanes.run([batch(start) for start in starts], self.check)

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

    def finish(self, batches: Sequence[Batch], names: Sequence[str], part: str = "") -> Tensor:
        """The values [rewards, images] of what was begun, once servers have answered."""
        for batch in batches:
            for row, asked in batch.asked.items():
                with self.meter.part(f"{part}remote"):
                    answers = [self._awaited(future) for future in asked]
                for answer in answers:
                    self._note(names[row], answer)
                values = torch.tensor([value for answer in answers for value in answer.values], dtype=torch.float32)
                batch.values[row] = torch.where(batch.drawn, values, torch.nan)
        return torch.cat([torch.empty(len(names), 0), *(batch.values for batch in batches)], dim=1)

    def asks(self, names: Sequence[str]) -> bool:
        """Whether a server is asked for one of these rewards."""
        return any(isinstance(self.rewards[name], RemoteReward) for name in names)

    def server(self, name: str) -> str | None:
        """The server that is asked for a reward, if one is."""
        reward = self.rewards[name]
        return reward.server if isinstance(reward, RemoteReward) else None

    def take_missing(self) -> Counter[str]:
        """How many failed since the last call, by NAME/KIND."""
        taken, self.missing = self.missing, Counter()
        return taken

    def decode(self, latents: Tensor, part: str = "") -> Tensor:
        """Images [n, 3, height, width] in 0..1 of a batch of latents."""
        with self.meter.part(f"{part}decode"):
            return self.model.decode(latents, self.size)

    def _batch(self, latents: Tensor, prompts: Sequence[str], names: Sequence[str], part: str, check: Check) -> Batch:
        check()
        images = self.decode(latents, part)
        self.meter.count_images(len(latents))
        with self.meter.part(f"{part}reward"):
            drawn = images.isfinite().flatten(1).all(dim=1).cpu()
            remote = {row: self.rewards[name] for row, name in enumerate(names)}
            # Servers first: they then work while this machine does.
            asked = {
                row: reward.begin(images, prompts, check)
                for row, reward in remote.items()
                if isinstance(reward, RemoteReward)
            }
            missing = torch.full((len(latents),), torch.nan)
            values = [missing if row in asked else self._score(name, images, prompts) for row, name in enumerate(names)]
            return Batch(torch.where(drawn, torch.stack(values), torch.nan), drawn, asked)

    def _score(self, name: str, images: Tensor, prompts: Sequence[str]) -> Tensor:
        values, causes = score_or_missing(self.rewards[name], name, images, prompts)
        if said := [cause for cause in causes if cause]:
            self.causes[name] = said[-1]
        return values

    def _awaited(self, future: Future[Answers]) -> Answers:
        while not future.done():
            self.check()
            wait([future], _LOOK_SECONDS)
        return future.result()

    def _note(self, name: str, answer: Answers) -> None:
        if answer.cause:
            self.causes[name] = answer.cause
        self.missing.update({f"{name}/{kind}": number for kind, number in answer.missing.items()})
