"""The interface of the algorithms: rollout, advantages, and transitions with log-probabilities."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from service.contracts.algorithms import AlgorithmContract
from worker.engine.grpo.advantages import Advantages, integrate_advantages
from worker.engine.grpo.loss import Objective, RolloutBatch
from worker.engine.grpo.noise import StepNoise
from worker.engine.grpo.solvers import Velocity
from worker.engine.grpo.transitions import Transition


class Costs(Protocol):
    """Records the costs of a rollout."""

    def part(self, name: str) -> AbstractContextManager[None]:
        """Attribute the cost of the enclosed block to part `name`."""

    def count(self, part: str, nfe: int) -> None:
        """Add function evaluations to `part`."""


@dataclass(frozen=True)
class Sampler:
    """The current policy, as needed for a rollout.

    exact: the velocity with the same numerics as the update, in batches of `exact_rows`, for all log-probabilities.
    fast: returns a context manager for the velocity with the fastest numerics, in batches of `fast_rows`, for
    everything else.
    check: called between batches; may raise to abort the rollout.
    done: called with a range of prompt indices and their clean latents [p, K, G, Λ, …] as soon as these are available.
    """

    exact: Velocity
    exact_rows: int
    fast: Callable[[], AbstractContextManager[Velocity]]
    fast_rows: int
    costs: Costs
    check: Callable[[], None] = lambda: None
    done: Callable[[range, Tensor], None] | None = None


@dataclass(frozen=True)
class Rollout:
    """The training states of a rollout, and the clean latents to score.

    ends: [P, K, G, Λ, tokens, channels], for the G samples in each of a prompt's K groups (`Algorithm.group_steps`), at
    each granularity.
    anchors: [P, tokens, channels], the ends of the deterministic trajectories, or None if the algorithm has none.
    """

    batch: RolloutBatch
    ends: Tensor
    anchors: Tensor | None


class Algorithm(ABC):
    """An algorithm with its noise schedule.

    A rollout consists of three parts: anchor (shared by a group), branch and continuation.
    """

    granularities: tuple[int, ...] = (1,)
    """The strides Λ at which each sample is denoised and scored."""

    def __init__(self, config: AlgorithmContract, sigmas: Sequence[float], shift: float, seed: int) -> None:
        self.sigmas, self.shift, self.seed = sigmas, shift, seed
        self.steps = len(sigmas) - 1
        self.group_size = config.group_size
        self.updates = config.updates_per_rollout
        self.pieces = config.pieces()
        self.objective = Objective(config.clip_range, config.kl_weight)
        self._advantage = config.advantage
        self.transitions = self.make_transitions()

    @property
    @abstractmethod
    def group_steps(self) -> tuple[int, ...]:
        """The SDE step of each of the K groups of a prompt, or −1 for a group of whole chains."""

    @abstractmethod
    def make_transitions(self) -> Mapping[int, Transition]:
        """Return the transition for every step that may be stochastic."""

    @abstractmethod
    def roll_out(self, step: int, prompts: int, noise: StepNoise, sampler: Sampler) -> Rollout:
        """Sample groups for prompts 0 … `prompts` − 1 in training step `step`."""

    def portions(self, prompts: int, sampler: Sampler) -> list[range]:
        """Divide the prompts into portions whose continuations are sampled together.

        If `sampler.done` is set, each portion contains only as many prompts as are needed to fill a batch.
        """
        each = len(self.group_steps) * self.group_size
        size = prompts if sampler.done is None else -(-sampler.fast_rows // each)
        return [range(first, min(first + size, prompts)) for first in range(0, prompts, size)]

    def exact_rows(self, prompts: int, batch_size: int) -> int:
        """Return the batch size for all evaluations with log-probabilities, in both the rollout and the update."""
        return min(batch_size, prompts)

    def advantages(self, rewards: Tensor, weights: list[float]) -> Advantages:
        """Compute advantages [P, K, G] from rewards [rewards, P, K, G, Λ]."""
        return integrate_advantages(rewards, weights, self._advantage)

    def members(self, units: Sequence[tuple[int, int, int]], samples: int) -> Tensor:
        """Return the indices [U, samples] of samples among the flattened advantages [P, K, G].

        units: (prompt, k, g) of each unit, whose samples are g, g+1, ….
        """
        groups = len(self.group_steps)
        first = torch.tensor([(p * groups + k) * self.group_size + g for p, k, g in units], dtype=torch.long)
        return first[:, None] + torch.arange(samples)
