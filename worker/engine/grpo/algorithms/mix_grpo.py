"""MixGRPO: training uses a sliding window of stochastic steps, which a fast solver may complete."""

import torch
from torch import Tensor

from service.contracts.algorithms import MixGRPO as Contract
from service.contracts.schedule import tail_nodes
from worker.engine.grpo.algorithms.base import Sampler
from worker.engine.grpo.algorithms.chains import Chains
from worker.engine.grpo.solvers import Velocity, dpm_solver_pp
from worker.engine.grpo.transitions import FlowTransition


class MixGRPO(Chains):
    """MixGRPO. Source: arXiv 2507.21802 and its published code."""

    config: Contract
    transition = FlowTransition

    def finish(self, velocity: Velocity, x: Tensor, prompts: list[int], start: int, sampler: Sampler) -> Tensor:
        if self.config.flash is None:
            return super().finish(velocity, x, prompts, start, sampler)
        nodes = tail_nodes(self.steps, self.shift, start, self.config.tail(self.steps, start))
        ends = []
        for first in range(0, len(x), sampler.fast_rows):
            sampler.check()
            rows = slice(first, first + sampler.fast_rows)
            ends.append(dpm_solver_pp(velocity, x[rows], nodes, prompts[rows]))
        return torch.cat(ends)
