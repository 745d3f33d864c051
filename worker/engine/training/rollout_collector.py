"""Rollout of a training step: sample this process's groups and collect the rewards from all processes."""

import math
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field

import torch
from torch import Tensor

from worker.engine.cpu_parallel import batch_size_per_thread
from worker.engine.grpo.algorithms.base import Algorithm, Rollout, Sampler
from worker.engine.grpo.noise import StepNoise
from worker.engine.grpo.solvers import Velocity
from worker.engine.models import attention
from worker.engine.models.base import Conditioning
from worker.engine.models.compile import compiled
from worker.engine.training.reward_failures import RewardFailureMonitor
from worker.engine.training.reward_scorer import RewardScorer, ScoredBatch
from worker.engine.training.run_context import RunContext


@dataclass
class RolloutCollector:
    """Samples groups with the current policy and scores them.

    rows: states per forward pass of the update. The rollout computes log-probabilities in batches of the same shape.
    """

    context: RunContext
    algorithm: Algorithm
    scorer: RewardScorer
    failures: RewardFailureMonitor
    rows: int
    _scored: list[ScoredBatch] = field(default_factory=list)
    """Batches of the current step for which scoring has started while the rollout continues."""

    @torch.no_grad()
    def sample(self, prompts: list[str], conditioning: Conditioning) -> Rollout:
        """Sample groups for this process's `prompts`, with log-probabilities, and denoise them to clean latents."""
        context, spec, model, size = self.context, self.context.spec, self.context.model, self.context.size
        context.progress.report("rollout")
        sampling = spec.sampling
        velocity = model.velocity(conditioning, size, sampling.guidance)

        @contextmanager
        def fast() -> Iterator[Velocity]:
            rows = batch_size_per_thread(model.device, sampling.rollout_batch_size)
            compiling = compiled(model.transformer, velocity, rows) if sampling.compile else nullcontext(velocity)
            with model.sampling_weights(), attention.fastest(), compiling as fastest:
                yield fastest

        self._scored = []

        def score(done: range, ends: Tensor) -> None:
            self._scored += self._start_scoring([prompts[p] for p in done], ends)

        remote = any(self.scorer.server(name) is not None for name in self._names)
        sampler = Sampler(
            exact=velocity,
            exact_rows=self.rows,
            fast=fast,
            fast_rows=sampling.rollout_batch_size,
            costs=context.meter,
            check=context.progress.check,
            done=score if remote else None,
        )
        noise = StepNoise(
            spec.training.seed,
            context.progress.step,
            packed=lambda draw: model.noise(draw, size),
            shape=model.packed_shape(size),
            first_prompt=context.shard.start,
        )
        with model.gathered(), context.distributed.synchronized_stop():
            return self.algorithm.roll_out(context.progress.step, len(prompts), noise, sampler)

    def score(self, ends: Tensor, prompts: list[str]) -> Tensor:
        """Return the rewards [rewards, P, K, G, Λ] of the samples of all processes.

        ends: this process's clean latents [P, K, G, Λ, …]. prompts: this process's prompts. Raises RewardsUnavailable
        or RewardsFailed if too many rewards failed.
        """
        distributed, names = self.context.distributed, self._names
        self.context.progress.report("reward")
        with distributed.synchronized_stop():
            scored, self._scored = self._scored or self._start_scoring(prompts, ends), []
            values = self.scorer.finish(scored, names)
        rewards = self._gather(values.reshape(len(names), *ends.shape[:4]))
        finite = distributed.all_gather(ends.isfinite().flatten(4).all(dim=-1).float().cpu(), rewards.shape[1])
        self.failures.check(rewards.flatten(1), names, finite.flatten() > 0)
        return rewards

    def score_anchors(self, anchors: Tensor | None, prompts: list[str]) -> Tensor | None:
        """Return the rewards [rewards, P] of the anchors' clean latents, or None if there are no anchors."""
        if anchors is None:
            return None
        with self.context.distributed.synchronized_stop():
            values = self.scorer.score(anchors, prompts, self._names)
        return self._gather(values)

    @property
    def _names(self) -> list[str]:
        return list(self.context.rewards)

    def _start_scoring(self, prompts: list[str], ends: Tensor) -> list[ScoredBatch]:
        """Start scoring `ends` [P, K, G, Λ, …]."""
        repeated = [prompt for prompt in prompts for _ in range(math.prod(ends.shape[1:4]))]
        return self.scorer.begin(ends.flatten(0, 3), repeated, self._names)

    def _gather(self, rewards: Tensor) -> Tensor:
        """Gather the rewards [rewards, P, …] for all prompts of the step from the shards of all processes."""
        return self.context.distributed.all_gather(rewards, self.context.spec.training.prompts_per_step, dim=1)
