"""Held-out evaluation during training: the same prompts and noises each time, and paired comparisons."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from service.contracts.events import HeldoutSummary
from service.contracts.plan import heldout_steps
from service.contracts.schedule import sigma_nodes
from worker.engine.cpu_parallel import Check, map_batches
from worker.engine.grpo.noise import normal
from worker.engine.grpo.rollout import ode_trajectory
from worker.engine.models.prompt_cache import Encodings
from worker.engine.training.context import RunContext
from worker.engine.training.optimizer import PolicyOptimizer
from worker.engine.training.prompt_sampler import fingerprint
from worker.engine.training.reward_failures import RewardFailureMonitor
from worker.engine.training.reward_scorer import RewardScorer

RESAMPLES = 10_000


@dataclass
class HeldoutEvaluator:
    """Samples and scores held-out images. Pair j is prompt j mod n with its own noise."""

    context: RunContext
    prompts: Sequence[str]
    encodings: Encodings
    scorer: RewardScorer
    failures: RewardFailureMonitor
    optimizer: PolicyOptimizer

    def __post_init__(self) -> None:
        spec, heldout = self.context.spec, self.context.spec.heldout
        self.names = spec.heldout_rewards
        self.prompts = self.prompts[: max(heldout.pairs, heldout.final_pairs) if heldout.every else 1]
        self.fingerprint = fingerprint(self.prompts)
        self.encodings.prepare(self.prompts)
        self._steps = frozenset(heldout_steps(spec))
        self.due = 0 in self._steps
        """Whether the current policy must be evaluated."""
        self._first: dict[str, list[float]] = {}
        """Values of the first evaluation, by reward; NaN where the reward failed."""
        self._values: Tensor | None = None
        """Values [rewards, pairs] of the current policy."""

    def policy_changed(self, step: int) -> None:
        """Mark the policy after training step `step` as not evaluated."""
        self.due, self._values = step in self._steps, None

    def evaluate(self) -> tuple[Tensor, Tensor]:
        """Evaluate the current policy: its first `heldout.samples` clean latents, and values [rewards, pairs].

        Raises RewardsUnavailable.
        """
        latents, values = self.sample_and_score(self._pairs(), self.context.spec.heldout.samples)
        self.failures.check_servers(values, self.names)
        self.scorer.take_missing()  # failure metrics are about rewards that are trained on
        if not self._first:
            self._first = dict(zip(self.names, values.tolist(), strict=True))
        self.due, self._values = False, values
        return latents, values

    def metrics(self, values: Tensor) -> dict[str, float]:
        """The point of the held-out curves: the mean of each row of `values` [rewards, pairs] over the first pairs."""
        curve = values[:, : self.context.spec.heldout.pairs]
        return {f"heldout/{name}": row.nanmean().item() for name, row in zip(self.names, curve, strict=True)}

    def final_summary(self) -> dict[str, HeldoutSummary]:
        """Compare the first with the current policy; empty if the run ends at a step without evaluation."""
        if self._values is None and self.context.progress.step in self._steps:
            # Resumed from the last step's checkpoint: metrics and counts of this evaluation are already recorded.
            _, self._values = self.sample_and_score(self._pairs(), kept=0)
        return {} if self._values is None else self.summarize(self._values)

    def summarize(self, values: Tensor) -> dict[str, HeldoutSummary]:
        """Compare the first evaluation with `values` [rewards, pairs], over the pairs with finite values in both."""
        summaries = {}
        for name, last in zip(self.names, values, strict=True):
            first = torch.tensor(self._first.get(name, []), dtype=torch.float64)
            pairs = min(len(first), len(last))
            both = first[:pairs].isfinite() & last[:pairs].isfinite()
            if both.any():
                summaries[name] = compare_pairs(first[:pairs][both].numpy(), last[:pairs][both].double().numpy())
        return summaries

    def _pairs(self) -> int:
        """Pairs of the current step: the first and the last policy are compared over more."""
        spec, heldout = self.context.spec, self.context.spec.heldout
        compared = self.context.progress.step in (0, spec.training.max_steps)
        return max(heldout.pairs, heldout.final_pairs) if compared else heldout.pairs

    @torch.no_grad()
    def sample_and_score(self, pairs: int, kept: int) -> tuple[Tensor, Tensor]:
        """The first `kept` clean latents, and values [rewards, pairs]; each process samples its shard of the pairs."""
        self.context.progress.report("evaluation")
        distributed = self.context.distributed
        shard = distributed.shard(pairs)
        with self.optimizer.published_weights():
            with self.context.model.gathered(), distributed.synchronized_stop():
                latents = self._sample(shard)
            with distributed.synchronized_stop():
                values = self.scorer.score(latents, [self.prompt(j) for j in shard], self.names, "heldout_")
            first = latents.new_zeros(min(kept, pairs), *latents.shape[1:])
            shown = range(min(shard.start, len(first)), min(shard.stop, len(first)))
            first[shown.start : shown.stop] = latents[: len(shown)]
            return distributed.all_reduce(first), distributed.all_gather(values, pairs, dim=1)

    def _sample(self, pairs: range) -> Tensor:
        """Clean latents of `pairs`."""
        context, sampling = self.context, self.context.spec.sampling
        model, size = context.model, context.size
        sigmas = sigma_nodes(sampling.steps, sampling.shift)

        def sample(pairs: range, check: Check) -> Tensor:
            check()
            noise = torch.cat([model.noise(partial(self._noise, j), size) for j in pairs])
            conditioning = self.encodings.encode([self.prompt(j) for j in pairs])
            velocity = model.velocity(conditioning, size, sampling.guidance)
            return ode_trajectory(velocity, noise, sigmas, len(pairs)).end

        empty = torch.empty(0, *model.packed_shape(size), dtype=model.latent_dtype, device=model.device)
        with model.sampling_weights(faithful=True), context.meter.part("heldout"):
            batches = map_batches(sample, pairs, model.device, sampling.rollout_batch_size, context.progress.check)
            latents = torch.cat([empty, *batches])
        context.meter.count("heldout", len(pairs) * sampling.steps)
        return latents

    def prompt(self, pair: int) -> str:
        """The prompt of a pair."""
        return self.prompts[pair % len(self.prompts)]

    def _noise(self, pair: int, shape: tuple[int, ...]) -> Tensor:
        return normal(shape, self.context.spec.heldout.seed, "heldout", pair)

    def state_dict(self) -> dict[str, Any]:
        return {"due": self.due, "first": dict(self._first)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.due, self._first = state["due"], state["first"]


def compare_pairs(before: np.ndarray, after: np.ndarray) -> HeldoutSummary:
    """Means, their difference, and its 95% percentile interval over seeded bootstrap resamples of the pairs."""
    differences = after - before
    generator = np.random.default_rng(0)
    means = np.array(
        [differences[generator.integers(0, len(differences), len(differences))].mean() for _ in range(RESAMPLES)]
    )
    low, high = np.quantile(means, [0.025, 0.975])
    return HeldoutSummary(
        before=float(before.mean()),
        after=float(after.mean()),
        difference=float(differences.mean()),
        interval95=(float(low), float(high)),
        pairs=len(differences),
    )
