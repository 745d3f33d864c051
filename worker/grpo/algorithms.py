"""The algorithms, composed of transitions, rollouts, advantages and objective."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from service.contracts.algorithms import G2RPO
from service.contracts.schedule import continuation_tree
from worker.grpo.advantages import AdvantageConfig, Advantages, integrate_advantages
from worker.grpo.objective import clipped_objective
from worker.grpo.rollout import Branch, Trajectory, Velocity, denoise_branches, ode_trajectory
from worker.grpo.transitions import FlowTransition, gaussian_log_prob, probability_ratio


@dataclass(frozen=True)
class Experience:
    """What the update learns from. P prompts, K SDE steps, G samples a group; latents end in [tokens, channels].

    states: x_i [P, K, …], one for the whole group. samples: the perturbed x'_{i,g} [P, K, G, …], float32 or better.
    old_log_probs: [P, K, G], from the anchor's own velocities.
    """

    states: Tensor
    samples: Tensor
    old_log_probs: Tensor


@dataclass(frozen=True)
class LossPart:
    """The loss of one forward: its share of the step's mean loss, and the ratios behind it [prompts, G]."""

    sde_step: int
    loss: Tensor
    ratios: Tensor
    clipped: Tensor


class GranularGRPO:
    """G²RPO: one stochastic step at a time off a shared deterministic trajectory, judged at several granularities.

    Source: the paper; the continuations' schedule as its public implementation has it.
    """

    def __init__(self, config: G2RPO, sigmas: Sequence[float]) -> None:
        self.config, self.sigmas = config, sigmas
        self.transitions = [FlowTransition.at(sigmas, i, config.eta) for i in config.sde_steps]
        self._trees = [continuation_tree(len(sigmas) - 1, i, config.granularities) for i in config.sde_steps]

    def anchors(self, policy: Velocity, noise: Tensor, batch_size: int) -> Trajectory:
        """The shared deterministic trajectory of each prompt, from noise [P, …], kept at the SDE steps."""
        return ode_trajectory(policy, noise, self.sigmas, batch_size, keep=self.config.sde_steps)

    def perturb(self, anchors: Trajectory, noise: Tensor) -> Experience:
        """Singular stochastic sampling: one SDE step from each kept state with noise [P, K, G, …].

        The anchor already has the velocities: no evaluation of the network.
        """
        samples, log_probs = [], []
        for k, (i, transition) in enumerate(zip(self.config.sde_steps, self.transitions, strict=True)):
            mean = transition.mean(anchors.states[i], anchors.velocities[i]).unsqueeze(1)
            sample = mean + transition.std * noise[:, k]
            samples.append(sample)
            log_probs.append(gaussian_log_prob(sample, mean, transition.std))
        states = torch.stack([anchors.states[i] for i in self.config.sde_steps], dim=1)
        return Experience(states, torch.stack(samples, dim=1), torch.stack(log_probs, dim=1))

    def denoise(
        self, sampler: Velocity, samples: Tensor, batch_size: int, between_batches: Callable[[], None] = lambda: None
    ) -> tuple[Tensor, int]:
        """Clean estimates [P, K, G, Λ, …] of samples [P, K, G, …] at every granularity, and the evaluations made."""
        strides = self.config.granularities
        ends = samples.new_full((*samples.shape[:3], len(strides), *samples.shape[3:]), torch.nan)

        def finish(branch: Branch, stride: int, estimate: Tensor) -> None:
            ends[(branch.prompt, *branch.place, strides.index(stride))] = estimate

        branches = [
            Branch(samples[p, k, g], tree, p, (k, g))
            for k, tree in enumerate(self._trees)
            for p in range(samples.shape[0])
            for g in range(samples.shape[2])
        ]
        evaluations = denoise_branches(sampler, branches, self.sigmas, batch_size, finish, between_batches)
        return ends, evaluations

    def advantages(self, rewards: Tensor, weights: list[float]) -> Advantages:
        """Advantages [P, K, G] from rewards [rewards, P, K, G, Λ]."""
        options = self.config.advantage
        config = AdvantageConfig(options.clip_max, options.std_eps, options.std_floor, options.scale)
        return integrate_advantages(rewards, weights, config)

    def losses(
        self, policy: Velocity, experience: Experience, advantages: Tensor, batch_size: int
    ) -> Iterator[LossPart]:
        """The parts of the step's mean loss, one forward each: a group shares its state, so one velocity serves all."""
        total = advantages.numel()
        for k, (i, transition) in enumerate(zip(self.config.sde_steps, self.transitions, strict=True)):
            for start in range(0, len(advantages), batch_size):
                rows = slice(start, start + batch_size)
                state = experience.states[rows, k]
                sigma = torch.full((len(state),), self.sigmas[i], dtype=state.dtype, device=state.device)
                velocity = policy(state, sigma, list(range(start, start + len(state))))
                mean = transition.mean(state, velocity).unsqueeze(1)
                log_probs = gaussian_log_prob(experience.samples[rows, k], mean, transition.std)
                ratio = probability_ratio(log_probs, experience.old_log_probs[rows, k])
                losses = clipped_objective(ratio, advantages[rows, k], self.config.clip_range)
                clipped = (ratio - 1.0).abs() > self.config.clip_range
                yield LossPart(i, losses.sum() / total, ratio.detach(), clipped)


ALGORITHMS: dict[str, type[GranularGRPO]] = {"g2rpo": GranularGRPO}
"""Every algorithm that a spec can name."""
