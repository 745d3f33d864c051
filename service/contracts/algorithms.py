"""What can be said of an alignment algorithm in a run's spec: G²RPO, its numbers and their sources."""

from typing import Annotated, Literal

from pydantic import Field, field_validator

from service.contracts.base import Contract


class Advantage(Contract):
    """How rewards of a group become one advantage per sample."""

    clip_max: float = Field(
        5.0, gt=0, le=100, description="Advantages are clamped to ±this. Source: supplement, Table 1."
    )
    std_eps: float = Field(
        1e-8, ge=0, le=1, description="Added to the group's standard deviation. Source: the public implementation."
    )
    std_floor: float = Field(
        1e-5,
        ge=0,
        le=1,
        description="A (reward, granularity) group whose standard deviation is under this contributes 0 and is counted "
        "in `zero_std_fraction`. In the reward's own unit. Default: rewards are scored in float32, where the same "
        "picture scored in another batch moves by up to 1e-6; a spread under ten times that is rounding.",
    )
    scale: Literal["sum", "mean"] = Field(
        "sum",
        description="`sum` adds the weighted advantages over granularities and rewards (the paper's); `mean` divides "
        "that by Σ|weight| × number of granularities, so that the size of an update does not grow with them.",
    )


class G2RPO(Contract):
    """G²RPO: one stochastic step at a time off a shared deterministic trajectory, judged at several granularities."""

    name: Literal["g2rpo"] = "g2rpo"
    granularities: tuple[Annotated[int, Field(ge=1, le=64)], ...] = Field(
        (1, 2, 3),
        min_length=1,
        max_length=8,
        description="Strides Λ with which each perturbed sample is denoised; [1] is G²RPO without MGAI. Distinct.",
    )
    sde_steps: tuple[Annotated[int, Field(ge=0, le=198)], ...] = Field(
        (1, 2, 3, 4),
        min_length=1,
        max_length=64,
        description="Step indices i at which one SDE step is taken, each 0 to steps − 2, distinct. "
        "The paper's M = {16..9} of 16 steps is i = 0..7.",
    )
    group_size: int = Field(12, ge=2, le=256, description="Samples G per SDE step. Source: supplement, Table 1.")
    eta: float = Field(
        0.7,
        gt=0,
        le=2,
        description="Noise level η of the SDE step; 0 has no log-probability. Source: supplement, Table 1.",
    )
    clip_range: float = Field(
        1e-4,
        gt=0,
        le=1,
        description="Clip range of the ratio (log-probability is a mean over dimensions). Source: Table 1.",
    )
    advantage: Advantage = Advantage()

    @field_validator("granularities", "sde_steps")
    @classmethod
    def _distinct(cls, values: tuple[int, ...]) -> tuple[int, ...]:
        if len(set(values)) != len(values):
            raise ValueError(f"{list(values)} repeats a value; each may stand once")
        return tuple(sorted(values))


Algorithm = G2RPO
