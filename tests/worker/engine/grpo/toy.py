"""A toy flow in float64, and the inputs of an algorithm's rollout."""

from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np
import pytest
import torch
from torch import Tensor

from service.contracts.algorithms import G2RPO, AlgorithmContract, DanceGRPO, FlowGRPO, MixGRPO
from service.contracts.algorithms.mix_grpo import Flash, Window
from service.contracts.schedule import sigma_nodes
from tests.worker.engine.grpo import transcription
from worker.engine.grpo.algorithms import ALGORITHMS
from worker.engine.grpo.algorithms.base import Algorithm, Rollout, Sampler
from worker.engine.grpo.noise import StepNoise, normal
from worker.engine.grpo.solvers import Velocity

PROMPTS, TOKENS, CHANNELS = 3, 4, 5
STEPS, SHIFT, SEED = 8, 3.0, 11

WINDOW = Window(size=3, every=1)
CONFIGS: dict[str, AlgorithmContract] = {
    "g2rpo": G2RPO(granularities=(1, 2, 3), sde_steps=(0, 1, 3, 6), group_size=4),
    "dance": DanceGRPO(group_size=4),
    "dance-own-noise": DanceGRPO(group_size=4, same_noise=False),
    "mix": MixGRPO(group_size=4, window=WINDOW),
    "mix-own-noise": MixGRPO(group_size=4, window=WINDOW, same_noise=False),
    "mix-random": MixGRPO(group_size=4, window=Window(size=2, every=1, order="random")),
    "mix-flash": MixGRPO(group_size=4, window=WINDOW, flash=Flash(share=0.7)),
    "flow": FlowGRPO(group_size=4),
    "flow-same-noise": FlowGRPO(group_size=4, same_noise=True),
    "flow-cps": FlowGRPO(group_size=4, transition="cps"),
}
every_algorithm = pytest.mark.parametrize("name", CONFIGS)
TRAINING_STEP = 3
"""The training step at which a window that moves at every step is in the middle."""
NODES = transcription.sigmas(STEPS, SHIFT)


class ToyFlow(torch.nn.Module):
    """A smooth velocity field with a term per prompt; counts the samples it evaluates."""

    def __init__(self, moved: float = 0.0) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(normal((CHANNELS, CHANNELS), 0, "weight").double() / 3)
        self.bias = torch.nn.Parameter(normal((PROMPTS, CHANNELS), 0, "bias").double() + moved)
        self.nfe = 0

    def forward(self, latents: Tensor, sigma: Tensor, prompts: list[int]) -> Tensor:
        self.nfe += len(latents)
        return torch.tanh(latents @ self.weight + self.bias[prompts][:, None]) * (1 + sigma[:, None, None])

    def plain(self, x: np.ndarray, sigma: float, prompt: int) -> np.ndarray:
        """The same field for one sample in NumPy."""
        weight, bias = self.weight.detach().numpy(), self.bias.detach().numpy()
        return np.tanh(x @ weight + bias[prompt]) * (1 + sigma)


@dataclass
class Ledger:
    """`Costs` that stores the counts."""

    nfe: dict[str, int] = field(default_factory=lambda: defaultdict(int))

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        yield

    def count(self, part: str, nfe: int) -> None:
        self.nfe[part] += nfe


def make(config: AlgorithmContract, steps: int = STEPS) -> Algorithm:
    """The engine's algorithm for a contract."""
    return ALGORITHMS[config.name](config, sigma_nodes(steps, SHIFT), SHIFT, SEED)


def noise(step: int = 0, first_prompt: int = 0) -> StepNoise:
    """The noise of a training step; initial noise in float64."""
    return StepNoise(
        SEED, step, lambda draw: draw((1, TOKENS, CHANNELS)).double(), (TOKENS, CHANNELS), first_prompt=first_prompt
    )


def sampler(flow: Velocity, rows: int = 2, fast_rows: int = 7, fast_flow: Velocity | None = None) -> Sampler:
    """A sampler of the policy `flow`; `fast_flow` replaces it in evaluations without log-probabilities."""

    @contextmanager
    def fast() -> Iterator[Velocity]:
        yield fast_flow or flow

    return Sampler(flow, rows, fast, fast_rows, Ledger())


@torch.no_grad()
def roll_out(config: AlgorithmContract, flow: Velocity, step: int = 0, rows: int = 2, fast_rows: int = 7) -> Rollout:
    """A rollout of all prompts."""
    return make(config).roll_out(step, PROMPTS, noise(step), sampler(flow, rows, fast_rows))


def transition_of(config: AlgorithmContract) -> str:
    """The name of the algorithm's SDE step in `transcription`."""
    return getattr(config, "transition", "dance" if config.name == "dance_grpo" else "flow")
