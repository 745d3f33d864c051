"""Decoding of latents and scoring of the images in batches, with a count of the failures."""

from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, wait
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor

from worker.engine.cpu_parallel import Check, map_batches
from worker.engine.models.base import FlowModel, ImageSize
from worker.engine.rewards.base import Answers, RemoteReward, Reward, score_or_missing
from worker.engine.training.cost_meter import CostMeter

_CHECK_SECONDS = 0.5
"""Interval between checks for stop requests while waiting for a server's response."""


@dataclass(frozen=True)
class ScoredBatch:
    """Values [rewards, n] of a batch of n images. Some rows may still be pending.

    finite: [n], whether each image is finite. pending: the pending server responses by row.
    """

    values: Tensor
    finite: Tensor
    pending: dict[int, list[Future[Answers]]]


@dataclass
class RewardScorer:
    """Decodes latents and scores the images.

    causes: the latest failure cause of each reward. missing: the number of failures by NAME/KIND. offload: whether the
    rewards stay on the CPU while they are not in use.
    """

    model: FlowModel
    rewards: dict[str, Reward]
    size: ImageSize
    batch_size: int
    meter: CostMeter
    check: Check
    offload: bool = False
    causes: dict[str, str] = field(default_factory=dict)
    missing: Counter[str] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        if self.offload:
            self._move_to_cpu()

    def score(self, latents: Tensor, prompts: Sequence[str], names: Sequence[str], part: str = "") -> Tensor:
        """Score clean `latents` [images, …].

        Returns values [rewards, images] on the CPU, NaN where a reward failed. part: prefix for the names of the parts
        whose time is measured.
        """
        return self.finish(self.begin(latents, prompts, names, part), names, part)

    def begin(self, latents: Tensor, prompts: Sequence[str], names: Sequence[str], part: str = "") -> list[ScoredBatch]:
        """Decode the latents, compute local rewards, and send requests to servers without waiting for the responses."""

        def score(batch: range, check: Check) -> ScoredBatch:
            rows = slice(batch.start, batch.stop)
            return self._score_batch(latents[rows], prompts[rows], names, part, check)

        with self._loaded(names, latents.device):
            return map_batches(score, range(len(latents)), latents.device, self.batch_size, self.check)

    @contextmanager
    def _loaded(self, names: Sequence[str], device: torch.device) -> Iterator[None]:
        """Keep the named rewards on `device` inside the block."""
        if not self.offload:
            yield
            return
        try:
            for name in names:
                self.rewards[name].move(device)
            yield
        finally:
            self._move_to_cpu()

    def _move_to_cpu(self) -> None:
        for reward in self.rewards.values():
            reward.move(torch.device("cpu"))

    def finish(self, batches: Sequence[ScoredBatch], names: Sequence[str], part: str = "") -> Tensor:
        """Wait for all server responses and return the values [rewards, images] of the batches."""
        for batch in batches:
            for row, futures in batch.pending.items():
                with self.meter.part(f"{part}remote"):
                    answers = [self._wait(future) for future in futures]
                for answer in answers:
                    self._count(names[row], answer)
                values = torch.tensor([value for answer in answers for value in answer.values], dtype=torch.float32)
                batch.values[row] = torch.where(batch.finite, values, torch.nan)
        return torch.cat([torch.empty(len(names), 0), *(batch.values for batch in batches)], dim=1)

    def server(self, name: str) -> str | None:
        """Return the server that computes a reward, or None for a local reward."""
        reward = self.rewards[name]
        return reward.server if isinstance(reward, RemoteReward) else None

    def take_missing(self) -> Counter[str]:
        """Return the number of failures by NAME/KIND since the last call, and reset it."""
        taken, self.missing = self.missing, Counter()
        return taken

    def decode(self, latents: Tensor, part: str = "") -> Tensor:
        """Decode latents [n, …] to images [n, 3, height, width] in 0..1."""
        with self.meter.part(f"{part}decode"):
            return self.model.decode(latents, self.size)

    def _score_batch(
        self, latents: Tensor, prompts: Sequence[str], names: Sequence[str], part: str, check: Check
    ) -> ScoredBatch:
        check()
        images = self.decode(latents, part)
        self.meter.count_images(len(latents))
        with self.meter.part(f"{part}reward"):
            finite = images.isfinite().flatten(1).all(dim=1).cpu()
            # Send requests to servers first, so that they compute in parallel with this machine.
            pending = {
                row: reward.begin(images, prompts, check)
                for row, reward in enumerate(self.rewards[name] for name in names)
                if isinstance(reward, RemoteReward)
            }
            missing = torch.full((len(latents),), torch.nan)
            values = [
                missing if row in pending else self._score(name, images, prompts) for row, name in enumerate(names)
            ]
            return ScoredBatch(torch.where(finite, torch.stack(values), torch.nan), finite, pending)

    def _score(self, name: str, images: Tensor, prompts: Sequence[str]) -> Tensor:
        values, causes = score_or_missing(self.rewards[name], name, images, prompts)
        if named := [cause for cause in causes if cause]:
            self.causes[name] = named[-1]
        return values

    def _wait(self, future: Future[Answers]) -> Answers:
        while not future.done():
            self.check()
            wait([future], _CHECK_SECONDS)
        return future.result()

    def _count(self, name: str, answer: Answers) -> None:
        if answer.cause:
            self.causes[name] = answer.cause
        self.missing.update({f"{name}/{kind}": number for kind, number in answer.missing.items()})
