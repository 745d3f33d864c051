"""Parts that the algorithms' contracts share."""

from typing import Literal

from pydantic import Field

from service.contracts.base import Contract


class Advantage(Contract):
    """How rewards of a group become one advantage per sample."""

    clip_max: float = Field(
        5.0, gt=0, le=100, description="Advantages are clamped to ±this. Source: supplement, Table 1."
    )
    std_eps: float = Field(
        1e-8, ge=0, le=1, description="Added to the standard deviation. Source: the public implementation."
    )
    std_floor: float = Field(
        1e-5,
        ge=0,
        le=1,
        description="A (reward, granularity) group whose standard deviation is under this contributes 0 and is counted "
        "in `zero_std_fraction`. In the reward's own unit. Default: rewards are scored in float32, where the same "
        "image scored in another batch moves by up to 1e-6; a spread under ten times that is rounding.",
    )
    scale: Literal["sum", "mean"] = Field(
        "sum",
        description="`sum` adds the weighted advantages over granularities and rewards (the paper's); `mean` divides "
        "that by Σ|weight| × number of granularities, so that the size of an update does not grow with them "
        "(MixGRPO's weights that add up to 1).",
    )
    aggregation: Literal["advantage", "reward"] = Field(
        "advantage",
        description="`advantage`: each reward is normalised by itself, then the advantages are added (the paper's). "
        "`reward`: the weighted rewards are added first, so that the one with the widest spread leads; a sample that "
        "lacks one of them lacks the sum.",
    )
    std: Literal["group", "batch"] = Field(
        "group",
        description="What divides: the standard deviation of the sample's group, or of all samples of the step "
        "(Flow-GRPO). The mean is always the group's.",
    )
