"""The G²RPO contract."""

from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from service.contracts.algorithms.base import AlgorithmContract
from service.contracts.base import DISTINCT
from service.contracts.schedule import RolloutCost, naive_cost, shared_cost

SORTED = AfterValidator(lambda values: tuple(sorted(values)))


class G2RPO(AlgorithmContract):
    """G²RPO: single SDE steps that branch off a shared deterministic trajectory, rewarded at several granularities."""

    name: Literal["g2rpo"] = "g2rpo"
    granularities: Annotated[tuple[Annotated[int, Field(ge=1, le=64)], ...], DISTINCT, SORTED] = Field(
        (1, 2, 3),
        min_length=1,
        max_length=8,
        description="Distinct strides Λ at which each perturbed sample is denoised; [1] is G²RPO without MGAI.",
    )
    sde_steps: Annotated[tuple[Annotated[int, Field(ge=0, le=198)], ...], DISTINCT, SORTED] = Field(
        (1, 2, 3, 4),
        min_length=1,
        max_length=64,
        description="Distinct step indices i of the SDE steps, from 0 to steps − 2. "
        "The paper's M = {16..9} of 16 steps is i = 0..7.",
    )

    def refuse_outside(self, steps: int) -> None:
        outside = [i for i in self.sde_steps if i > steps - 2]
        if outside:
            raise ValueError(
                f"sde_steps {outside} are outside the schedule: with sampling.steps {steps}, allowed: 0 to {steps - 2}"
            )

    def pieces(self) -> int:
        return len(self.sde_steps)

    def trained(self, steps: int) -> int:
        return len(self.sde_steps)

    def cost(self, steps: int, step: int, seed: int) -> RolloutCost:
        return shared_cost(steps, self.sde_steps, self.granularities, self.group_size)

    def naive_cost(self, steps: int, step: int, seed: int) -> RolloutCost:
        return naive_cost(steps, self.sde_steps, self.granularities, self.group_size)
