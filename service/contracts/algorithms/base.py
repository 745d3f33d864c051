"""What every algorithm says of itself: the fields all have, and what validation and plans ask."""

from abc import abstractmethod
from typing import Any

from pydantic import ConfigDict, Field

from service.contracts.algorithms.parts import Advantage
from service.contracts.base import Contract
from service.contracts.schedule import RolloutCost


def _must_be_named(schema: dict[str, Any]) -> None:
    """An object without a name is G²RPO's: for all others, the schema demands it."""
    if schema["properties"]["name"].get("const") != "g2rpo":
        schema["required"] = [*schema.get("required", []), "name"]


class AlgorithmContract(Contract):
    """Fields of every algorithm. A subclass adds its `name` and its own."""

    model_config = ConfigDict(json_schema_extra=_must_be_named)

    name: str
    group_size: int = Field(12, ge=2, le=256, description="Samples G of a group. Source: supplement, Table 1.")
    eta: float = Field(0.7, gt=0, le=2, description="Noise level η of an SDE step; 0 has no log-probability.")
    clip_range: float = Field(
        1e-4,
        gt=0,
        le=1,
        description="Clip range of the ratio (log-probability is a mean over dimensions). Source: Table 1.",
    )
    kl_weight: float = Field(
        0.0,
        ge=0,
        le=1000,
        description="Weight β of the KL divergence from the frozen base, mean((μ−μ_ref)²)/(2·std²), in the loss. "
        "Needs adapter `lora`: the base is the policy without it. Costs a forward per trained state.",
    )
    updates_per_rollout: int = Field(
        1,
        ge=1,
        le=1024,
        description="Optimizer steps per rollout. Each learns from an equal share of it: of whole groups (G²RPO) or "
        "whole chains.",
    )
    advantage: Advantage = Advantage()

    @abstractmethod
    def refuse_outside(self, steps: int) -> None:
        """Raise ValueError, naming field and bounds, where something lies outside a schedule of so many steps."""

    @abstractmethod
    def pieces(self) -> int:
        """Parts of one prompt's rollout that no update may split."""

    @abstractmethod
    def trained(self, steps: int) -> int:
        """Forward and backward passes of the update for one prompt's rollout, in samples."""

    @abstractmethod
    def cost(self, steps: int, step: int, seed: int) -> RolloutCost:
        """What this implementation evaluates for one prompt in training step `step` of a run of seed `seed`."""

    @abstractmethod
    def naive_cost(self, steps: int, step: int, seed: int) -> RolloutCost:
        """The same without sharing anything."""

    def total_nfe(self, steps: int, max_steps: int, seed: int) -> int:
        """Rollout evaluations for one prompt in each of `max_steps` training steps."""
        return max_steps * self.cost(steps, 0, seed).total
