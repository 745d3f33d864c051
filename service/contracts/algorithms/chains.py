"""Contract of chain algorithms: each group consists of G chains for one prompt, stochastic in a range of steps."""

from pydantic import Field

from service.contracts.algorithms.base import AlgorithmContract
from service.contracts.schedule import RolloutCost, chain_cost


class ChainContract(AlgorithmContract):
    """Base class of the contracts of chain algorithms.

    A chain's reward is computed on the clean estimate of its last evaluation.
    """

    same_noise: bool = Field(
        True,
        strict=True,
        description="Whether the chains of a group start from the same noise. If so, their common steps before the "
        "first SDE step are evaluated once.",
    )

    def stochastic(self, steps: int, step: int, seed: int) -> range:
        """Return the SDE steps of training step `step`: consecutive indices, by default all from 0 to steps − 2."""
        return range(steps - 1)

    def tail(self, steps: int, stop: int) -> int:
        """Return the NFE of one chain from node `stop`, which follows its last SDE step, to the end."""
        return steps - stop

    def refuse_outside(self, steps: int) -> None:
        """Accept any schedule, because no field depends on it."""

    def pieces(self) -> int:
        return self.group_size

    def cost(self, steps: int, step: int, seed: int) -> RolloutCost:
        stochastic = self.stochastic(steps, step, seed)
        return chain_cost(stochastic, self.group_size, self.same_noise, self.tail(steps, stochastic.stop))

    def naive_cost(self, steps: int, step: int, seed: int) -> RolloutCost:
        stochastic = self.stochastic(steps, step, seed)
        return chain_cost(stochastic, self.group_size, False, self.tail(steps, stochastic.stop))
