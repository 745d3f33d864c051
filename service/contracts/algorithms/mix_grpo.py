"""MixGRPO's contract: a sliding window of SDE steps, and a fast solver for what follows it."""

from typing import Literal

from pydantic import Field

from service.contracts.algorithms.chains import ChainContract
from service.contracts.base import Contract
from service.contracts.schedule import RolloutCost, chain_cost, draw


class Window(Contract):
    """The SDE steps of a training step: `size` consecutive ones, from 0 … steps − 1 − size."""

    size: int = Field(4, ge=1, le=198, description="SDE steps in the window; at most sampling.steps − 1.")
    order: Literal["progressive", "random"] = Field(
        "progressive",
        description="`progressive`: from the first step on, by `stride` at a time, then back to the first. `random`: "
        "drawn from the places that `progressive` visits.",
    )
    every: int = Field(25, ge=1, le=1_000_000, description="Training steps with one window. Source: MixGRPO.")
    stride: int = Field(1, ge=1, le=198, description="Steps by which the window moves. Source: MixGRPO.")

    def places(self, steps: int) -> range:
        """Where the window may start: never so late that a part of it is outside."""
        return range(0, steps - self.size, self.stride)

    def start(self, steps: int, step: int, seed: int) -> int:
        """The window's first SDE step in training step `step`."""
        places, move = self.places(steps), step // self.every
        return places[draw(len(places), seed, "window", move) if self.order == "random" else move % len(places)]


class Flash(Contract):
    """After the window: DPM-Solver++ (second order, midpoint) instead of every step of the schedule."""

    share: float = Field(
        0.4,
        gt=0,
        le=1,
        description="Intervals taken, as a share of the R steps left: max(1, round(share · R)). The last ends at "
        "σ = 0. Source: MixGRPO-Flash.",
    )


class MixGRPO(ChainContract):
    """MixGRPO: G chains that are stochastic in a sliding window of steps alone; the window is what is trained."""

    name: Literal["mix_grpo"] = "mix_grpo"
    window: Window = Window()
    flash: Flash | None = Field(None, description="A fast solver after the window (MixGRPO-Flash); null: every step.")
    updates_per_rollout: int = Field(
        4, ge=1, le=1024, description="Optimizer steps per rollout, each on a share of the chains. Source: MixGRPO."
    )

    def refuse_outside(self, steps: int) -> None:
        if self.window.size > steps - 1:
            raise ValueError(
                f"window.size {self.window.size} is larger than the schedule: "
                f"with sampling.steps = {steps} allowed are 1 to {steps - 1}"
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
        """Of a random window: what is to be expected."""
        places, every = self.window.places(steps), self.window.every
        costs = [self._cost_at(steps, start).total for start in places]
        if self.window.order == "random":
            return round(max_steps * sum(costs) / len(costs))
        moves, rest = divmod(max_steps, every)
        rounds, left = divmod(moves, len(costs))
        return every * (rounds * sum(costs) + sum(costs[:left])) + rest * costs[left]

    def _cost_at(self, steps: int, start: int) -> RolloutCost:
        stop = start + self.window.size
        return chain_cost(range(start, stop), self.group_size, self.same_noise, self.tail(steps, stop))
