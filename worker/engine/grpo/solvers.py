"""Fast deterministic solvers for what follows the stochastic steps."""

import math
from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor

from worker.engine.grpo.rollout import Velocity
from worker.engine.grpo.transitions import clean_estimate


def dpm_solver_pp(velocity: Velocity, x: Tensor, nodes: Sequence[float], prompts: list[int]) -> Tensor:
    """The clean end of `x` [samples, tokens, channels] by DPM-Solver++ along the noise levels `nodes`, from x's to 0.

    Second order, multistep, midpoint, in data prediction: with α = 1−σ, λ = log(α/σ), h the step in λ and D̂ the clean
    estimate extrapolated by half a step from the last two, x' = (σ'/σ)·x − α'·(e^{−h} − 1)·D̂. The first step has no
    earlier estimate, and the last, to σ = 0, is the clean estimate itself. Sources: DPM-Solver++ (arXiv 2211.01095),
    MixGRPO-Flash.
    """
    earlier: Tensor | None = None
    earlier_step = 0.0
    for sigma, following in pairwise(nodes):
        v = velocity(x, torch.full((len(x),), sigma, dtype=x.dtype, device=x.device), prompts)
        estimate = clean_estimate(x, v, sigma)
        if following == 0.0:
            return estimate
        step = _log_snr(following) - _log_snr(sigma)
        target = estimate
        if earlier is not None:
            target = estimate + (estimate - earlier) * (step / earlier_step / 2.0)
        x = (following / sigma) * x - (1.0 - following) * math.expm1(-step) * target
        earlier, earlier_step = estimate, step
    raise ValueError(f"the nodes end at σ = {nodes[-1]}; a solver must end at 0, or noise is judged")


def _log_snr(sigma: float) -> float:
    return math.log((1.0 - sigma) / sigma)
