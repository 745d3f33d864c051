"""The MixGRPO contract: a sliding window of SDE steps, optionally followed by a fast solver."""

from typing import Literal

from pydantic import Field

from service.contracts.algorithms.chains import ChainContract
from service.contracts.base import Contract
from service.contracts.schedule import RolloutCost, chain_cost, draw


class Window(Contract):
    """The window of SDE steps in a training step: `size` consecutive steps, starting between 0 and steps − 1 − size."""

    size: int = Field(4, ge=1, le=198, description="Number of SDE steps in the window; at most sampling.steps − 1.")
    order: Literal["progressive", "random"] = Field(
        "progressive",
        description="`progressive`: the window moves by `stride` from the first step and restarts at the end. "
        "`random`: each position is selected at random from the same positions.",
    )
    every: int = Field(25, ge=1, le=1_000_000, description="Training steps between moves. Source: MixGRPO.")
    stride: int = Field(1, ge=1, le=198, description="Steps by which the window moves. Source: MixGRPO.")

    def positions(self, steps: int) -> range:
        """Return the start positions at which the whole window lies within the schedule."""
        return range(0, steps - self.size, self.stride)

    def start(self, steps: int, step: int, seed: int) -> int:
        """Return the first SDE step of the window in training step `step`."""
        positions, move = self.positions(steps), step // self.every
        random = self.order == "random"
        return positions[draw(len(positions), seed, "window", move) if random else move % len(positions)]


class Flash(Contract):
    """Use DPM-Solver++ (second order, midpoint) after the window instead of every step of the schedule."""

    share: float = Field(
        0.4,
        gt=0,
        le=1,
        description="Solver intervals as a share of the R remaining steps: max(1, round(share · R)). The last ends at "
        "σ = 0. Source: MixGRPO-Flash.",
    )


class MixGRPO(ChainContract):
    """MixGRPO: G chains that are stochastic and trained only within a sliding window of steps."""

    name: Literal["mix_grpo"] = "mix_grpo"
    window: Window = Window()
    flash: Flash | None = Field(None, description="Fast solver after the window (MixGRPO-Flash); null: use every step.")
    updates_per_rollout: int = Field(4, ge=1, le=1024, description="Optimizer steps per rollout. Source: MixGRPO.")

    def refuse_outside(self, steps: int) -> None:
        if self.window.size > steps - 1:
            raise ValueError(
                f"window.size {self.window.size} is larger than the schedule: "
                f"with sampling.steps {steps}, allowed: 1 to {steps - 1}"
            )

    def stochastic(self, steps: int, step: int, seed: int) -> range:
        start = self.window.start(steps, step, seed)
        return range(start, start + self.window.size)

    def tail(self, steps: int, stop: int) -> int:
        left = steps - stop
        return left if self.flash is None else max(1, round(self.flash.share * left))

    def trained(self, steps: int) -> int:
        return self.group_size * self.window.size

    def total_nfe(self, steps: int, max_steps: int, seed: int) -> int:
        """Return the total rollout NFE of `max_steps` training steps with one prompt per step.

        For a random window, this is the expected value.
        """
        positions, every = self.window.positions(steps), self.window.every
        costs = [self._cost_at(steps, start).total for start in positions]
        if self.window.order == "random":
            return round(max_steps * sum(costs) / len(costs))
        moves, rest = divmod(max_steps, every)
        rounds, left = divmod(moves, len(costs))
        return every * (rounds * sum(costs) + sum(costs[:left])) + rest * costs[left]

    def _cost_at(self, steps: int, start: int) -> RolloutCost:
        stop = start + self.window.size
        return chain_cost(range(start, stop), self.group_size, self.same_noise, self.tail(steps, stop))
