"""The contract of algorithms whose groups are G chains of one prompt, stochastic in a range of steps."""

from abc import abstractmethod

from pydantic import Field

from service.contracts.algorithms.base import AlgorithmContract
from service.contracts.schedule import RolloutCost, chain_cost


class ChainContract(AlgorithmContract):
    """Fields and costs of chain algorithms. The reward is that of the clean estimate of a chain's last evaluation."""

    same_noise: bool = Field(
        True,
        strict=True,
        description="Whether the chains of a group start from the same noise. They are then evaluated once until their "
        "first SDE step.",
    )

    @abstractmethod
    def stochastic(self, steps: int, step: int, seed: int) -> range:
        """The SDE steps of training step `step`, consecutive, within 0 to steps − 2."""

    @abstractmethod
    def tail(self, steps: int, stop: int) -> int:
        """NFE of a chain from node `stop`, after its last SDE step, to its end."""

    def refuse_outside(self, steps: int) -> None:
        """No field depends on the schedule."""

    def pieces(self) -> int:
        return self.group_size

    def cost(self, steps: int, step: int, seed: int) -> RolloutCost:
        stochastic = self.stochastic(steps, step, seed)
        return chain_cost(stochastic, self.group_size, self.same_noise, self.tail(steps, stochastic.stop))

    def naive_cost(self, steps: int, step: int, seed: int) -> RolloutCost:
        stochastic = self.stochastic(steps, step, seed)
        return chain_cost(stochastic, self.group_size, False, self.tail(steps, stochastic.stop))
