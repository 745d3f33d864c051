"""What an algorithm is to the trainer: rollout, advantages, and the transitions whose log-probabilities count."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from service.contracts.algorithms import AlgorithmContract
from worker.engine.grpo.advantages import AdvantageConfig, Advantages, integrate_advantages
from worker.engine.grpo.loss import Experience, Objective
from worker.engine.grpo.noise import StepNoise
from worker.engine.grpo.rollout import Velocity
from worker.engine.grpo.transitions import Transition


class Costs(Protocol):
    """Where a rollout says what it spends."""

    def part(self, name: str) -> AbstractContextManager[None]:
        """Times what is enclosed."""

    def count(self, part: str, nfe: int) -> None:
        """Adds NFE."""


@dataclass(frozen=True)
class Sampler:
    """Today's policy as a rollout uses it.

    exact: its velocity in the update's own numerics and batches of `exact_rows`; log-probabilities come from it alone.
    fast: gives a velocity in whatever numerics are fastest, for everything else, in batches of `fast_rows`. `check` is
    called between batches, and may raise to abandon the rollout. `done` is given prompts with their clean ends
    [p, K, G, Λ, …] as soon as they are there; None: nobody waits for them.
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
    """What a rollout brings: something to learn from, and clean ends to judge.

    ends: [P, K, G, Λ, tokens, channels], for K groups per prompt (`Algorithm.places`) of G samples at each granularity.
    anchors: [P, tokens, channels], the deterministic ends, or None where the algorithm draws none.
    """

    experience: Experience
    ends: Tensor
    anchors: Tensor | None


class Algorithm(ABC):
    """One algorithm on one schedule. Rolls out in three parts: anchor (what a group shares), branch, continuation."""

    granularities: tuple[int, ...] = (1,)
    """Strides Λ at which each sample is judged."""

    def __init__(self, config: AlgorithmContract, sigmas: Sequence[float], shift: float, seed: int) -> None:
        self.sigmas, self.shift, self.seed = sigmas, shift, seed
        self.steps = len(sigmas) - 1
        self.group_size = config.group_size
        self.updates = config.updates_per_rollout
        self.pieces = config.pieces()
        self.objective = Objective(config.clip_range, config.kl_weight)
        self._advantage = AdvantageConfig(**config.advantage.model_dump())
        self.transitions = self.make_transitions()

    @property
    @abstractmethod
    def places(self) -> tuple[int, ...]:
        """The SDE steps of the K groups of a prompt, −1 for a group of whole chains."""

    @abstractmethod
    def make_transitions(self) -> Mapping[int, Transition]:
        """The transition of every step that may be stochastic."""

    @abstractmethod
    def roll_out(self, step: int, prompts: int, noise: StepNoise, sampler: Sampler) -> Rollout:
        """Sample groups for prompts 0 … `prompts` − 1 in training step `step`."""

    def portions(self, prompts: int, sampler: Sampler) -> list[range]:
        """Prompts whose continuations are drawn together: as few as fill a batch where ends are waited for."""
        each = len(self.places) * self.group_size
        size = prompts if sampler.done is None else -(-sampler.fast_rows // each)
        return [range(first, min(first + size, prompts)) for first in range(0, prompts, size)]

    def exact_rows(self, prompts: int, batch_size: int) -> int:
        """Rows of every evaluation whose log-probabilities count, rollout and update alike."""
        return min(batch_size, prompts)

    def advantages(self, rewards: Tensor, weights: list[float]) -> Advantages:
        """Advantages [P, K, G] from rewards [rewards, P, K, G, Λ]."""
        return integrate_advantages(rewards, weights, self._advantage)

    def members(self, units: Sequence[tuple[int, int, int]], samples: int) -> Tensor:
        """Places [U, samples] among flat advantages [P, K, G] of samples g, g+1, … of each (prompt, k, g)."""
        groups = len(self.places)
        first = torch.tensor([(p * groups + k) * self.group_size + g for p, k, g in units], dtype=torch.long)
        return first[:, None] + torch.arange(samples)
