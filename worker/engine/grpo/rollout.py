"""Deterministic trajectories and the batched tree of continuations that branch off them."""

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from service.contracts.schedule import TreeNode
from worker.engine.cpu_parallel import Check, Lanes
from worker.engine.grpo.transitions import clean_estimate, ode_step

_SHARES = 4
"""Shares of a rollout for each lane. Each ends with a batch that is not full."""
Velocity = Callable[[Tensor, Tensor, list[int]], Tensor]
"""velocity(latents [n, tokens, channels], sigmas [n], n prompt indices) → a tensor like the latents."""


@dataclass(frozen=True)
class Trajectory:
    """ODE trajectories: kept states and velocities by step, and the clean ends, each [prompts, tokens, channels]."""

    states: dict[int, Tensor]
    velocities: dict[int, Tensor]
    end: Tensor


def filled(velocity: Velocity, x: Tensor, sigma: Tensor, prompts: list[int], rows: int) -> Tensor:
    """The velocity of n ≤ `rows` samples, evaluated as a batch of `rows`, which the last one fills up.

    One shape for every evaluation of a kind: batches of another shape differ in the last bits, and so would ratios.
    """
    missing = rows - len(x)
    if missing <= 0:
        return velocity(x, sigma, prompts)
    x, sigma = (torch.cat([part, part[-1:].expand(missing, *part.shape[1:])]) for part in (x, sigma))
    return velocity(x, sigma, prompts + prompts[-1:] * missing)[:-missing]


def ode_trajectory(
    velocity: Velocity, noise: Tensor, sigmas: Sequence[float], batch_size: int, keep: Sequence[int] = ()
) -> Trajectory:
    """Denoise `noise` [prompts, tokens, channels] along all nodes; keep x_i and v_i for i in `keep`.

    Prompts go through the model in batches of one shape, `batch_size` or all of them, so that a later evaluation at a
    kept state in a batch of that shape repeats the velocity bit for bit.
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


@dataclass(frozen=True)
class Branch:
    """A sample waiting for an evaluation: its state [tokens, channels], where, and whose it is."""

    latents: Tensor
    tree: TreeNode
    prompt: int
    place: tuple[int, ...]


def denoise_branches(
    velocity: Velocity,
    branches: Sequence[Branch],
    sigmas: Sequence[float],
    batch_size: int,
    finish: Callable[[Branch, int, Tensor], None],
    between_batches: Check = lambda: None,
) -> int:
    """Evaluate every branch's tree in full batches, mixing prompts, nodes and strides; return the evaluations made.

    `finish(branch, stride, x̂_0)` is called for each path that ends, by several lanes at once. Branches are dealt in
    turn to shares, of which a lane takes the next when it has done one: a lane that is disturbed gets fewer.
    `between_batches` may raise to abandon the rollout.
    """
    if not branches:
        return 0
    lanes = Lanes.on(branches[0].latents.device, batch_size)

    shares = 1 if lanes.number == 1 else lanes.number * _SHARES

    def share(number: int) -> Callable[[Check], int]:
        own = branches[number::shares]
        return lambda check: _denoise(velocity, own, sigmas, lanes.batch_size, finish, check)

    return sum(lanes.run([share(number) for number in range(shares)], between_batches))


def _denoise(
    velocity: Velocity,
    branches: Sequence[Branch],
    sigmas: Sequence[float],
    batch_size: int,
    finish: Callable[[Branch, int, Tensor], None],
    between_batches: Check,
) -> int:
    """One share. First come, first served: long paths are all begun early, so that the last batches are full."""
    waiting = deque(branches)
    nfe = 0
    while waiting:
        between_batches()
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
                waiting.append(Branch(state, child, branch.prompt, branch.place))
    return nfe
