"""DanceGRPO: all steps but the last are stochastic, and training uses a random subset of each chain's SDE steps."""

from collections.abc import Sequence

from service.contracts.algorithms import DanceGRPO as Contract
from worker.engine.grpo.algorithms.chains import Chains
from worker.engine.grpo.noise import permutation
from worker.engine.grpo.transitions import DanceTransition


class DanceGRPO(Chains):
    """DanceGRPO. Source: arXiv 2505.07818 and its published script."""

    config: Contract
    transition = DanceTransition

    def trained_steps(self, step: int, prompt: int, sample: int, stochastic: range) -> Sequence[int]:
        order = permutation(len(stochastic), self.seed, "trained", step, prompt, sample)
        return [stochastic[k] for k in order[: self.config.trained_of_a_chain(self.steps)]]
