"""G²RPO: SDE steps from a shared deterministic trajectory, with each sample denoised at several granularities."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from service.contracts.algorithms import G2RPO
from service.contracts.schedule import continuation_tree
from worker.engine.grpo.algorithms.base import Algorithm, Rollout, Sampler
from worker.engine.grpo.loss import RolloutBatch
from worker.engine.grpo.noise import StepNoise
from worker.engine.grpo.solvers import Branch, Trajectory, Velocity, denoise_branches, ode_trajectory
from worker.engine.grpo.transitions import FlowTransition, Transition


class GranularGRPO(Algorithm):
    """Takes single stochastic steps from a shared deterministic trajectory and scores them at several granularities.

    Source: the paper. The schedule of the continuations follows its public implementation.
    """

    def __init__(self, config: G2RPO, sigmas: Sequence[float], shift: float, seed: int) -> None:
        self.config = config
        self.granularities = config.granularities
        super().__init__(config, sigmas, shift, seed)
        self._trees = [continuation_tree(self.steps, i, config.granularities) for i in config.sde_steps]

    @property
    def group_steps(self) -> tuple[int, ...]:
        return self.config.sde_steps

    def make_transitions(self) -> Mapping[int, Transition]:
        return {i: FlowTransition.at(self.sigmas, i, self.config.eta) for i in self.config.sde_steps}

    def roll_out(self, step: int, prompts: int, noise: StepNoise, sampler: Sampler) -> Rollout:
        costs = sampler.costs
        with costs.part("anchor"):
            initial = torch.cat([noise.initial(p) for p in range(prompts)])
            anchors = ode_trajectory(sampler.exact, initial, self.sigmas, sampler.exact_rows, keep=self.group_steps)
        costs.count("anchor", prompts * self.steps)
        with costs.part("branch"):
            batch, samples = self.branch(anchors, noise)
        ends = samples.new_full((*samples.shape[:3], len(self.granularities), *samples.shape[3:]), torch.nan)
        for portion in self.portions(prompts, sampler):
            with costs.part("continuation"), sampler.fast() as velocity:
                nfe = self.denoise(velocity, samples, ends, portion, sampler)
            costs.count("continuation", nfe)
            if sampler.done is not None:
                sampler.done(portion, ends[portion.start : portion.stop])
        return Rollout(batch, ends, anchors.end)

    def branch(self, anchors: Trajectory, noise: StepNoise) -> tuple[RolloutBatch, Tensor]:
        """Perform singular stochastic sampling: take one SDE step from each kept state.

        Returns the training states and the samples [P, K, G, …]. The network is not evaluated, because the anchor
        trajectory already contains the velocities.
        """
        prompts, groups = range(len(anchors.end)), range(self.group_size)
        samples, log_probs = [], []
        for i in self.group_steps:
            transition = self.transitions[i]
            draws = torch.stack([torch.stack([noise.sde(p, i, g) for g in groups]) for p in prompts])
            mean = transition.mean(anchors.states[i], anchors.velocities[i]).unsqueeze(1)
            sample = mean + transition.std * draws.to(mean)
            samples.append(sample)
            log_probs.append(transition.log_prob(sample, mean))
        together = torch.cat(samples)
        units = [(p, k, 0) for k in range(len(self.group_steps)) for p in prompts]
        batch = RolloutBatch(
            states=torch.cat([anchors.states[i] for i in self.group_steps]),
            samples=together,
            old_log_probs=torch.cat(log_probs),
            sde_steps=tuple(self.group_steps[k] for _, k, _ in units),
            prompts=tuple(p for p, _, _ in units),
            members=self.members(units, self.group_size),
            pieces=tuple(k for _, k, _ in units),
        )
        return batch, together.reshape(len(self.group_steps), -1, *together.shape[1:]).transpose(0, 1)

    def denoise(self, velocity: Velocity, samples: Tensor, ends: Tensor, prompts: range, sampler: Sampler) -> int:
        """Denoise the samples [P, K, G, …] of some prompts at every granularity and write to `ends` [P, K, G, Λ, …].

        Returns the number of function evaluations.
        """
        strides = self.granularities

        def finish(branch: Branch, stride: int, estimate: Tensor) -> None:
            ends[(branch.prompt, *branch.index, strides.index(stride))] = estimate

        branches = [
            Branch(samples[p, k, g], tree, p, (k, g))
            for k, tree in enumerate(self._trees)
            for p in prompts
            for g in range(samples.shape[2])
        ]
        return denoise_branches(velocity, branches, self.sigmas, sampler.fast_rows, finish, sampler.check)
