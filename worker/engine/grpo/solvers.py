"""Deterministic solvers, and batched evaluation of the continuation trees that start from stochastic samples."""

import math
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from service.contracts.schedule import TreeNode
from worker.engine.cpu_parallel import Check, map_shares
from worker.engine.grpo.transitions import clean_estimate, ode_step

Velocity = Callable[[Tensor, Tensor, list[int]], Tensor]
"""velocity(latents [n, tokens, channels], sigmas [n], n prompt indices) → a tensor of the same shape as the latents."""


@dataclass(frozen=True)
class Trajectory:
    """ODE trajectories: the states and velocities by step, and the clean latents.

    Each tensor has shape [prompts, tokens, channels].
    """

    states: dict[int, Tensor]
    velocities: dict[int, Tensor]
    end: Tensor


def filled(velocity: Velocity, x: Tensor, sigma: Tensor, prompts: list[int], rows: int) -> Tensor:
    """Compute the velocity of n ≤ `rows` samples in a batch of `rows`, padded with the last sample.

    Results for batches of different shapes differ in the last bits, which would affect the ratios.
    """
    missing = rows - len(x)
    if missing <= 0:
        return velocity(x, sigma, prompts)
    x, sigma = (torch.cat([part, part[-1:].expand(missing, *part.shape[1:])]) for part in (x, sigma))
    return velocity(x, sigma, prompts + prompts[-1:] * missing)[:-missing]


def ode_trajectory(
    velocity: Velocity, noise: Tensor, sigmas: Sequence[float], batch_size: int, keep: Sequence[int] = ()
) -> Trajectory:
    """Denoise `noise` [prompts, tokens, channels] along all nodes and keep x_i and v_i for i in `keep`.

    All batches have the same shape. A later evaluation of a kept state in a batch of that shape therefore reproduces
    the velocity bit for bit.
    """
    rows = min(batch_size, len(noise))
    states: dict[int, list[Tensor]] = {i: [] for i in keep}
    velocities: dict[int, list[Tensor]] = {i: [] for i in keep}
    ends: list[Tensor] = []
    for start in range(0, len(noise), batch_size):
        x = noise[start : start + batch_size]
        prompts = list(range(start, start + len(x)))
        for i in range(len(sigmas) - 1):
            v = filled(velocity, x, torch.full((len(x),), sigmas[i], dtype=x.dtype, device=x.device), prompts, rows)
            if i in states:
                states[i].append(x)
                velocities[i].append(v)
            x = ode_step(x, v, sigmas[i + 1] - sigmas[i])
        ends.append(x)
    return Trajectory(
        {i: torch.cat(parts) for i, parts in states.items()},
        {i: torch.cat(parts) for i, parts in velocities.items()},
        torch.cat(ends),
    )


def dpm_solver_pp(velocity: Velocity, x: Tensor, nodes: Sequence[float], prompts: list[int]) -> Tensor:
    """Denoise `x` [samples, tokens, channels] with DPM-Solver++ along the noise levels `nodes`.

    The nodes start at the noise level of `x` and must end at 0; otherwise, raises ValueError.

    This is the second-order multistep midpoint method with data prediction: x' = (σ'/σ)·x − α'·(e^{−h} − 1)·D̂. Here,
    α = 1−σ, λ = log(α/σ), h is the step in λ, and D̂ is extrapolated by half a step from the last two clean estimates.
    The first step uses only the current estimate. The last step, to σ = 0, returns the clean estimate. Sources:
    DPM-Solver++ (arXiv 2211.01095), MixGRPO-Flash.
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
    raise ValueError(f"the nodes end at σ = {nodes[-1]}; they must end at 0, otherwise noise is scored")


def _log_snr(sigma: float) -> float:
    return math.log((1.0 - sigma) / sigma)


@dataclass(frozen=True)
class Branch:
    """A state [tokens, channels] with the tree that remains to be evaluated, its prompt index and its result index."""

    latents: Tensor
    tree: TreeNode
    prompt: int
    index: tuple[int, ...]


def denoise_branches(
    velocity: Velocity,
    branches: Sequence[Branch],
    sigmas: Sequence[float],
    batch_size: int,
    finish: Callable[[Branch, int, Tensor], None],
    check: Check = lambda: None,
) -> int:
    """Evaluate the trees of all branches in full batches that mix prompts, nodes and strides.

    finish: called as `finish(branch, stride, x̂_0)` at the end of each path, from any thread. check: called between
    batches; may raise to abort the rollout. Returns the number of function evaluations.
    """
    if not branches:
        return 0

    def denoise(share: Sequence[Branch], batch_size: int, check: Check) -> int:
        return _denoise(velocity, share, sigmas, batch_size, finish, check)

    return sum(map_shares(denoise, branches, branches[0].latents.device, batch_size, check))


def _denoise(
    velocity: Velocity,
    branches: Sequence[Branch],
    sigmas: Sequence[float],
    batch_size: int,
    finish: Callable[[Branch, int, Tensor], None],
    check: Check,
) -> int:
    """Evaluate the trees in first-in, first-out order, so that long paths start early and the last batches are full."""
    waiting = deque(branches)
    nfe = 0
    while waiting:
        check()
        batch = [waiting.popleft() for _ in range(min(batch_size, len(waiting)))]
        x = torch.stack([branch.latents for branch in batch])
        sigma = torch.tensor([sigmas[branch.tree.node] for branch in batch], dtype=x.dtype, device=x.device)
        v = velocity(x, sigma, [branch.prompt for branch in batch])
        nfe += len(batch)
        estimates = clean_estimate(x, v, sigma[:, None, None])
        for index, branch in enumerate(batch):
            for stride in branch.tree.ends:
                finish(branch, stride, estimates[index])
            for child in branch.tree.children:
                delta = sigmas[child.node] - sigmas[branch.tree.node]
                state = ode_step(x[index], v[index], delta)
                waiting.append(Branch(state, child, branch.prompt, branch.index))
    return nfe
