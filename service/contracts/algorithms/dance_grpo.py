"""The DanceGRPO contract."""

from typing import Literal

from pydantic import Field

from service.contracts.algorithms.chains import ChainContract


class DanceGRPO(ChainContract):
    """DanceGRPO: G stochastic chains that start from the same noise, trained on a random share of their steps."""

    name: Literal["dance_grpo"] = "dance_grpo"
    eta: float = Field(0.3, gt=0, le=2, description="Noise level η, equal at all steps. Source: DanceGRPO's script.")
    timestep_fraction: float = Field(
        0.6,
        gt=0,
        le=1,
        description="Share of a chain's SDE steps that are trained, at least one, sampled for each chain. "
        "Source: DanceGRPO's published script.",
    )
    updates_per_rollout: int = Field(
        3, ge=1, le=1024, description="Optimizer steps per rollout. Source: DanceGRPO's published script."
    )

    def trained_of_a_chain(self, steps: int) -> int:
        """Return the number of trained SDE steps per chain."""
        return max(1, int(self.timestep_fraction * (steps - 1)))

    def trained(self, steps: int) -> int:
        return self.group_size * self.trained_of_a_chain(steps)
