"""G²RPO's contract."""

from typing import Annotated, Literal

from pydantic import Field, field_validator

from service.contracts.algorithms.base import AlgorithmContract
from service.contracts.schedule import RolloutCost, naive_cost, shared_cost


class G2RPO(AlgorithmContract):
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

    @field_validator("granularities", "sde_steps")
    @classmethod
    def _distinct(cls, values: tuple[int, ...]) -> tuple[int, ...]:
        if len(set(values)) != len(values):
            raise ValueError(f"{list(values)} repeats a value; each may stand once")
        return tuple(sorted(values))

    def refuse_outside(self, steps: int) -> None:
        outside = [i for i in self.sde_steps if i > steps - 2]
        if outside:
            raise ValueError(
                f"sde_steps {outside} lie outside the schedule: "
                f"with sampling.steps = {steps} allowed are 0 to {steps - 2}"
            )

    def pieces(self) -> int:
        return len(self.sde_steps)

    def trained(self, steps: int) -> int:
        return len(self.sde_steps)

    def cost(self, steps: int, step: int, seed: int) -> RolloutCost:
        return shared_cost(steps, self.sde_steps, self.granularities, self.group_size)

    def naive_cost(self, steps: int, step: int, seed: int) -> RolloutCost:
        return naive_cost(steps, self.sde_steps, self.granularities, self.group_size)
