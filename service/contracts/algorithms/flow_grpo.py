"""The Flow-GRPO contract."""

from typing import Literal

from pydantic import Field, model_validator

from service.contracts.algorithms.chains import ChainContract


class FlowGRPO(ChainContract):
    """Flow-GRPO: G stochastic chains that start from different noises, trained on every SDE step."""

    name: Literal["flow_grpo"] = "flow_grpo"
    eta: float = Field(0.9, gt=0, le=2, description="Noise level η; at most 1 with `cps`. Source: Flow-GRPO.")
    transition: Literal["flow", "cps"] = Field(
        "flow",
        description="The SDE step: `flow`, or the later coefficients-preserving sampling `cps`, whose log-probability "
        "omits the variance; use it with a clip range of 1e-5.",
    )
    same_noise: bool = Field(False, strict=True, description="Whether the chains of a group start from the same noise.")
    updates_per_rollout: int = Field(2, ge=1, le=1024, description="Optimizer steps per rollout. Source: Flow-GRPO.")

    @model_validator(mode="after")
    def _cps_within_one(self) -> "FlowGRPO":
        if self.transition == "cps" and self.eta > 1:
            raise ValueError(f"eta {self.eta} is too large for transition cps; must be above 0 and at most 1")
        return self

    def trained(self, steps: int) -> int:
        return self.group_size * (steps - 1)
