"""Held-out evaluation during training, with the same prompts and noise each time and paired comparisons."""

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
from worker.engine.grpo.solvers import ode_trajectory
from worker.engine.models.prompt_cache import Encodings
from worker.engine.training.optimizer import PolicyOptimizer
from worker.engine.training.prompt_sampler import fingerprint
from worker.engine.training.reward_failures import RewardFailureMonitor
from worker.engine.training.reward_scorer import RewardScorer
from worker.engine.training.run_context import RunContext

RESAMPLES = 10_000


@dataclass
class HeldoutEvaluator:
    """Samples and scores held-out images. Pair j consists of prompt j mod n, for n prompts, and its own noise."""

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
        """The values of the first evaluation by reward name, NaN where the reward failed."""
        self._values: Tensor | None = None
        """The values [rewards, pairs] of the current policy, or None if it has not been evaluated."""

    def policy_changed(self, step: int) -> None:
        """Mark the policy after training step `step` as not yet evaluated."""
        self.due, self._values = step in self._steps, None

    def evaluate(self) -> tuple[Tensor, Tensor]:
        """Evaluate the current policy.

        Returns the first `heldout.samples` clean latents, and the values [rewards, pairs]. Raises RewardsUnavailable if
        a server returned no value for a reward.
        """
        latents, values = self.sample_and_score(self._pairs(), self.context.spec.heldout.samples)
        self.failures.check_servers(values, self.names)
        self.scorer.take_missing()  # failure metrics cover training rollouts only
        if not self._first:
            self._first = dict(zip(self.names, values.tolist(), strict=True))
        self.due, self._values = False, values
        return latents, values

    def metrics(self, values: Tensor) -> dict[str, float]:
        """Return a point of the held-out curves: each reward's mean over the first `heldout.pairs` columns of `values`.

        values: [rewards, pairs], NaN where a reward failed.
        """
        curve = values[:, : self.context.spec.heldout.pairs]
        return {f"heldout/{name}": row.nanmean().item() for name, row in zip(self.names, curve, strict=True)}

    def final_summary(self) -> dict[str, HeldoutSummary]:
        """Compare the current policy with the first one.

        Returns an empty dict if no evaluation is scheduled at the last step.
        """
        if self._values is None and self.context.progress.step in self._steps:
            # The run was resumed from the last step's checkpoint. The metrics of this evaluation are already recorded.
            _, self._values = self.sample_and_score(self._pairs(), kept=0)
        return {} if self._values is None else self.summarize(self._values)

    def summarize(self, values: Tensor) -> dict[str, HeldoutSummary]:
        """Compare `values` [rewards, pairs] with the first evaluation, over the pairs that are finite in both."""
        summaries = {}
        for name, last in zip(self.names, values, strict=True):
            first = torch.tensor(self._first.get(name, []), dtype=torch.float64)
            pairs = min(len(first), len(last))
            both = first[:pairs].isfinite() & last[:pairs].isfinite()
            if both.any():
                summaries[name] = compare_pairs(first[:pairs][both].numpy(), last[:pairs][both].double().numpy())
        return summaries

    def _pairs(self) -> int:
        """Return the number of pairs to evaluate: the first and last policies are compared over more pairs."""
        spec, heldout = self.context.spec, self.context.spec.heldout
        compared = self.context.progress.step in (0, spec.training.max_steps)
        return max(heldout.pairs, heldout.final_pairs) if compared else heldout.pairs

    @torch.no_grad()
    def sample_and_score(self, pairs: int, kept: int) -> tuple[Tensor, Tensor]:
        """Sample and score `pairs` pairs, of which each process samples its shard.

        Returns the first `kept` clean latents, and the values [rewards, pairs].
        """
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
        """Sample the clean latents for `pairs`."""
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
        """Return the prompt of a pair."""
        return self.prompts[pair % len(self.prompts)]

    def _noise(self, pair: int, shape: tuple[int, ...]) -> Tensor:
        return normal(shape, self.context.spec.heldout.seed, "heldout", pair)

    def state_dict(self) -> dict[str, Any]:
        return {"due": self.due, "first": dict(self._first)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.due, self._first = state["due"], state["first"]


def compare_pairs(before: np.ndarray, after: np.ndarray) -> HeldoutSummary:
    """Compute both means, their difference, and its 95% percentile interval from a seeded bootstrap over the pairs."""
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
