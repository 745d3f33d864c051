"""Flow-GRPO: all steps but the last are stochastic, and training uses all of these steps."""

from collections.abc import Sequence

from service.contracts.algorithms import FlowGRPO as Contract
from worker.engine.grpo.algorithms.chains import Chains
from worker.engine.grpo.transitions import CpsTransition, FlowTransition


class FlowGRPO(Chains):
    """Flow-GRPO. Source: arXiv 2505.05470 and its published code."""

    def __init__(self, config: Contract, sigmas: Sequence[float], shift: float, seed: int) -> None:
        self.transition = CpsTransition if config.transition == "cps" else FlowTransition
        super().__init__(config, sigmas, shift, seed)
