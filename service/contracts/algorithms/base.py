"""Fields shared by all algorithms, and the methods that validation and plans use."""

from abc import abstractmethod
from typing import Any, Literal

from pydantic import ConfigDict, Field

from service.contracts.base import Contract
from service.contracts.schedule import RolloutCost


class Advantage(Contract):
    """Settings for converting the rewards of a group to one advantage per sample."""

    clip_max: float = Field(5.0, gt=0, le=100, description="Advantages are clamped to ±`clip_max`. Source: Table 1.")
    std_eps: float = Field(1e-8, ge=0, le=1, description="Added to the standard deviation. Source: public code.")
    std_floor: float = Field(
        1e-5,
        ge=0,
        le=1,
        description="A (reward, granularity) group with a smaller standard deviation, in units of the reward, "
        "contributes 0 and is counted in `zero_std_fraction`. Default: ten times the rounding error of a float32 "
        "reward in batches of different sizes, up to 1e-6.",
    )
    scale: Literal["sum", "mean"] = Field(
        "sum",
        description="`sum`: sum of the weighted advantages over granularities and rewards (the paper's). `mean`: the "
        "sum divided by Σ|weight| × number of granularities, which makes updates independent of their size (MixGRPO).",
    )
    aggregation: Literal["advantage", "reward"] = Field(
        "advantage",
        description="`advantage`: each reward is normalized separately, then the advantages are added (the paper's). "
        "`reward`: the weighted rewards are added before normalization; if one of them failed for a sample, the sum "
        "is missing.",
    )
    std: Literal["group", "batch"] = Field(
        "group",
        description="Normalize by the standard deviation of the sample's group, or of all samples of the step "
        "(Flow-GRPO). The mean is always that of the group.",
    )


def _require_name(schema: dict[str, Any]) -> None:
    """Mark `name` as required in the JSON schema, except for the default algorithm, G²RPO."""
    if schema["properties"]["name"].get("const") != "g2rpo":
        schema["required"] = [*schema.get("required", []), "name"]


class AlgorithmContract(Contract):
    """Base class of the algorithm contracts. Subclasses define `name` and algorithm-specific fields."""

    model_config = ConfigDict(json_schema_extra=_require_name)

    name: str
    group_size: int = Field(12, ge=2, le=256, description="Number of samples G in a group. Source: Table 1.")
    eta: float = Field(0.7, gt=0, le=2, description="Noise level η of an SDE step.")
    clip_range: float = Field(
        1e-4,
        gt=0,
        le=1,
        description="Clip range of the ratio; log-probabilities are means over dimensions. Source: Table 1.",
    )
    kl_weight: float = Field(
        0.0,
        ge=0,
        le=1000,
        description="Weight β in the loss of the KL divergence from the base model, mean((μ−μ_ref)²)/(2·std²). "
        "Requires adapter `lora`, and one more forward pass per trained state.",
    )
    updates_per_rollout: int = Field(
        1,
        ge=1,
        le=1024,
        description="Optimizer steps per rollout. Each uses an equal number of whole groups (G²RPO) or chains.",
    )
    advantage: Advantage = Advantage()

    @abstractmethod
    def refuse_outside(self, steps: int) -> None:
        """Raise ValueError if a field exceeds the range of a schedule with `steps` steps."""

    @abstractmethod
    def pieces(self) -> int:
        """Return the number of indivisible parts (groups or chains) in the rollout of one prompt.

        An update must contain whole parts.
        """

    @abstractmethod
    def trained(self, steps: int) -> int:
        """Return the number of trained states per prompt. Each needs a forward and backward pass in the update."""

    @abstractmethod
    def cost(self, steps: int, step: int, seed: int) -> RolloutCost:
        """Return this implementation's NFE for one prompt in training step `step` of a run with seed `seed`."""

    @abstractmethod
    def naive_cost(self, steps: int, step: int, seed: int) -> RolloutCost:
        """Return the NFE for one prompt if no computation is shared between samples."""

    def total_nfe(self, steps: int, max_steps: int, seed: int) -> int:
        """Return the total rollout NFE of `max_steps` training steps with one prompt per step."""
        return max_steps * self.cost(steps, 0, seed).total
