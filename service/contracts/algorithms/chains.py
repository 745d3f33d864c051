"""The contract of algorithms whose groups are G whole chains of one prompt, stochastic in a range of steps."""

from abc import abstractmethod

from pydantic import Field

from service.contracts.algorithms.base import AlgorithmContract
from service.contracts.schedule import RolloutCost, chain_cost


class ChainContract(AlgorithmContract):
    """Fields and questions of all chain algorithms. A chain is judged by the clean estimate of its last evaluation."""

    same_noise: bool = Field(
        True,
        strict=True,
        description="Whether the chains of a group begin with one noise. Then they are one until their first SDE step, "
        "and evaluated as one.",
    )

    @abstractmethod
    def stochastic(self, steps: int, step: int, seed: int) -> range:
        """The SDE steps of training step `step`, consecutive, within 0 to steps − 2."""

    @abstractmethod
    def tail(self, steps: int, stop: int) -> int:
        """Evaluations of a chain from node `stop`, after its last SDE step, to its end."""

    def refuse_outside(self, steps: int) -> None:
        """Nothing here depends on the schedule."""

    def pieces(self) -> int:
        return self.group_size

    def cost(self, steps: int, step: int, seed: int) -> RolloutCost:
        stochastic = self.stochastic(steps, step, seed)
        return chain_cost(stochastic, self.group_size, self.same_noise, self.tail(steps, stochastic.stop))

    def naive_cost(self, steps: int, step: int, seed: int) -> RolloutCost:
        stochastic = self.stochastic(steps, step, seed)
        return chain_cost(stochastic, self.group_size, False, self.tail(steps, stochastic.stop))
