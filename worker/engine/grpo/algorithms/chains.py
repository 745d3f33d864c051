"""Base class of the chain algorithms: G whole chains per prompt that are stochastic in a range of steps."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from service.contracts.algorithms.chains import ChainContract
from service.contracts.schedule import TreeNode
from worker.engine.grpo.algorithms.base import Algorithm, Rollout, Sampler
from worker.engine.grpo.loss import RolloutBatch
from worker.engine.grpo.noise import StepNoise
from worker.engine.grpo.solvers import Branch, Velocity, denoise_branches, filled, ode_trajectory
from worker.engine.grpo.transitions import Transition


class Chains(Algorithm):
    """Base class for algorithms whose groups consist of G whole chains for one prompt.

    The clean estimate of a chain's last evaluation is scored. Chains with the same initial noise are identical up to
    their first SDE step, so the network is evaluated only once for all of them. The last step is deterministic, because
    its noise would not be trained on and would only blur the rewards.
    """

    transition: type[Transition]

    def __init__(self, config: ChainContract, sigmas: Sequence[float], shift: float, seed: int) -> None:
        self.config = config
        super().__init__(config, sigmas, shift, seed)

    @property
    def group_steps(self) -> tuple[int, ...]:
        return (-1,)

    def make_transitions(self) -> Mapping[int, Transition]:
        return {i: self.transition.at(self.sigmas, i, self.config.eta) for i in range(self.steps - 1)}

    def trained_steps(self, step: int, prompt: int, sample: int, stochastic: range) -> Sequence[int]:
        """Return the SDE steps of a chain to train on, by default all of them.

        prompt: the index among the prompts of all processes. stochastic: all SDE steps of the chain.
        """
        return stochastic

    def finish(self, velocity: Velocity, x: Tensor, prompts: list[int], start: int, sampler: Sampler) -> Tensor:
        """Denoise the chains `x` [chains, …] from node `start` step by step and return their clean ends."""
        path = TreeNode(self.steps - 1, (), (1,))
        for node in range(self.steps - 2, start - 1, -1):
            path = TreeNode(node, (path,), ())
        ends = torch.full_like(x, torch.nan)

        def end(branch: Branch, _: int, estimate: Tensor) -> None:
            ends[branch.index] = estimate

        branches = [Branch(state, path, prompts[c], (c,)) for c, state in enumerate(x)]
        denoise_branches(velocity, branches, self.sigmas, sampler.fast_rows, end, sampler.check)
        return ends

    def exact_rows(self, prompts: int, batch_size: int) -> int:
        return min(batch_size, prompts * self.group_size)

    def roll_out(self, step: int, prompts: int, noise: StepNoise, sampler: Sampler) -> Rollout:
        costs, shared = sampler.costs, self.config.same_noise
        stochastic = self.config.stochastic(self.steps, step, self.seed)
        groups = range(self.group_size)
        with costs.part("anchor"), sampler.fast() as velocity:
            own = [noise.initial(p) if shared else noise.initial(p, g) for p in range(prompts) for g in groups]
            starts = torch.cat(own[:: self.group_size] if shared else own)
            owners = [p for p in range(prompts) for _ in (range(1) if shared else groups)]
            x = self._before(velocity, starts, owners, stochastic.start, sampler)
        costs.count("anchor", len(x) * stochastic.start)
        with costs.part("branch"):
            x, batch, nfe = self._branch(step, x, prompts, stochastic, noise, sampler)
        costs.count("branch", nfe)
        parts = []
        for portion in self.portions(prompts, sampler):
            chains = x[portion.start * len(groups) : portion.stop * len(groups)]
            owners = [p for p in portion for _ in groups]
            with costs.part("continuation"), sampler.fast() as velocity:
                ends = self.finish(velocity, chains, owners, stochastic.stop, sampler)
            parts.append(ends.reshape(len(portion), 1, self.group_size, 1, *ends.shape[1:]))
            if sampler.done is not None:
                sampler.done(portion, parts[-1])
        costs.count("continuation", len(x) * self.config.tail(self.steps, stochastic.stop))
        return Rollout(batch, torch.cat(parts), None)

    def _before(self, velocity: Velocity, x: Tensor, owners: list[int], start: int, sampler: Sampler) -> Tensor:
        """Denoise `x` deterministically and return the states at node `start`, the first SDE step."""
        if start == 0:
            return x
        ends = []
        for first in range(0, len(x), sampler.fast_rows):
            sampler.check()
            batch = x[first : first + sampler.fast_rows]

            def of_chains(latents: Tensor, sigma: Tensor, chains: list[int], first: int = first) -> Tensor:
                return velocity(latents, sigma, [owners[first + c] for c in chains])

            ends.append(ode_trajectory(of_chains, batch, self.sigmas[: start + 1], len(batch)).end)
        return torch.cat(ends)

    def _branch(
        self, step: int, x: Tensor, prompts: int, stochastic: range, noise: StepNoise, sampler: Sampler
    ) -> tuple[Tensor, RolloutBatch, int]:
        """Take all SDE steps of all chains.

        Returns the states after these steps, the training states, and the number of function evaluations.
        """
        size = self.group_size
        chains = [(p, g) for p in range(prompts) for g in range(size)]
        trained = [set(self.trained_steps(step, noise.first_prompt + p, g, stochastic)) for p, g in chains]
        states, samples, log_probs, units = [], [], [], []
        nfe = 0
        for i in stochastic:
            velocity = self._velocity(x, i, sampler, len(x) // prompts)
            nfe += len(x)
            if len(x) < len(chains):  # each group had a single state
                x, velocity = (part.repeat_interleave(size, dim=0) for part in (x, velocity))
            transition = self.transitions[i]
            mean = transition.mean(x, velocity)
            sample = mean + transition.std * torch.stack([noise.sde(p, i, g) for p, g in chains]).to(x)
            chosen = [c for c, steps in enumerate(trained) if i in steps]
            states.append(x[chosen])
            samples.append(sample[chosen])
            log_probs.append(transition.log_prob(sample[chosen], mean[chosen]))
            units += [(i, *chains[c]) for c in chosen]
            x = sample
        batch = RolloutBatch(
            states=torch.cat(states),
            samples=torch.cat(samples).unsqueeze(1),
            old_log_probs=torch.cat(log_probs).unsqueeze(1),
            sde_steps=tuple(i for i, _, _ in units),
            prompts=tuple(p for _, p, _ in units),
            members=self.members([(p, 0, g) for _, p, g in units], 1),
            pieces=tuple(g for _, _, g in units),
        )
        return x, batch, nfe

    def _velocity(self, x: Tensor, step: int, sampler: Sampler, each: int) -> Tensor:
        """Compute the velocity of all states at step `step`, in batches of the update's size.

        each: the number of states per prompt.
        """
        parts = []
        for start in range(0, len(x), sampler.exact_rows):
            sampler.check()
            part = x[start : start + sampler.exact_rows]
            sigma = torch.full((len(part),), self.sigmas[step], dtype=x.dtype, device=x.device)
            prompts = [(start + row) // each for row in range(len(part))]
            parts.append(filled(sampler.exact, part, sigma, prompts, sampler.exact_rows))
        return torch.cat(parts)
