"""The denoising schedule in pure Python: σ nodes, continuation paths, shared computation, and NFE.

Indices follow the engine: node i of T has σ_i, σ_0 = 1 and σ_T = 0; the paper numbers timesteps by steps
left, m = T − i. Plans and engine use the same functions.
"""

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass


def sigma_nodes(steps: int, shift: float) -> tuple[float, ...]:
    """The T+1 noise levels σ_i = s·t_i / (1 + (s−1)·t_i) at t_i = 1 − i/T, from σ_0 = 1 down to σ_T = 0."""
    times = [1.0 - i / steps for i in range(1, steps + 1)]
    return (1.0, *(shifted(t, shift) for t in times))  # exactly 1, independent of rounding


def shifted(time: float, shift: float) -> float:
    """The noise level σ = s·t / (1 + (s−1)·t) at time t of 1 … 0."""
    return shift * time / (1.0 + (shift - 1.0) * time)


def tail_nodes(steps: int, shift: float, start: int, intervals: int) -> tuple[float, ...]:
    """Noise levels of `intervals` equal intervals of time from node `start` to 0, both ends included."""
    first = 1.0 - start / steps
    times = [first * (1.0 - j / intervals) for j in range(1, intervals + 1)]
    return (sigma_nodes(steps, shift)[start], *(shifted(t, shift) for t in times))


def draw(below: int, seed: int, *address: int | str) -> int:
    """A number of 0 … below − 1 that depends only on seed and address: equal in plans and all processes."""
    text = "\x1f".join(str(part) for part in (seed, *address))
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big") % below


def continuation_path(steps: int, sde_step: int, stride: int) -> tuple[int, ...]:
    """Nodes at which the model is evaluated after the SDE step at `sde_step`, when denoising with `stride` λ.

    σ_{i+1}, then σ_{i+2+jλ} for j = 0, 1, … while i+2+(j+1)λ ≤ T; from the last node the path goes straight to σ = 0.
    Length ⌈(T−1−i)/λ⌉. Source: the paper's multi-granularity denoising, as its public implementation schedules it.
    """
    if not 0 <= sde_step <= steps - 2:
        raise ValueError(f"SDE step {sde_step} is outside the schedule: allowed are 0 to {steps - 2}")
    if stride < 1:
        raise ValueError(f"stride {stride} is not positive")
    return (sde_step + 1, *range(sde_step + 2, steps - stride + 1, stride))


@dataclass(frozen=True)
class TreeNode:
    """An evaluation of the network in a tree of continuations with shared prefixes.

    `node` is the index of its noise level, `children` the following evaluations, and `ends` the strides whose path ends
    here: their clean estimate x̂_0 = x − σ·v is a finished image.
    """

    node: int
    children: tuple["TreeNode", ...]
    ends: tuple[int, ...]

    def count(self) -> int:
        """NFE of this subtree, including this node."""
        return 1 + sum(child.count() for child in self.children)


def continuation_tree(steps: int, sde_step: int, strides: Sequence[int]) -> TreeNode:
    """All continuations of an SDE step; shared prefixes are evaluated once."""
    paths = {stride: continuation_path(steps, sde_step, stride) for stride in strides}
    return _grow(paths, depth=0)


def _grow(paths: dict[int, tuple[int, ...]], depth: int) -> TreeNode:
    node = next(iter(paths.values()))[depth]
    ends = tuple(stride for stride, path in paths.items() if len(path) == depth + 1)
    following: dict[int, dict[int, tuple[int, ...]]] = {}
    for stride, path in paths.items():
        if len(path) > depth + 1:
            following.setdefault(path[depth + 1], {})[stride] = path
    return TreeNode(node, tuple(_grow(group, depth + 1) for group in following.values()), ends)


@dataclass(frozen=True)
class RolloutCost:
    """NFE for one prompt's rollout, by part."""

    anchor: int
    sde_steps: int
    continuations: int
    images: int

    @property
    def total(self) -> int:
        return self.anchor + self.sde_steps + self.continuations


def chain_cost(stochastic: range, group_size: int, same_noise: bool, tail: int) -> RolloutCost:
    """NFE of the G chains of a prompt: before the SDE steps, in them, and `tail` per chain after them.

    Chains from the same noise share all evaluations up to that of the first SDE step.
    """
    prefixes = 1 if same_noise else group_size
    anchor = prefixes * stochastic.start
    branch = prefixes + group_size * (len(stochastic) - 1)
    return RolloutCost(anchor, branch, group_size * tail, images=group_size)


def shared_cost(steps: int, sde_steps: Sequence[int], strides: Sequence[int], group_size: int) -> RolloutCost:
    """NFE of this implementation per prompt: anchor velocities are reused, prefixes of continuations shared."""
    continuations = group_size * sum(continuation_tree(steps, i, strides).count() for i in sde_steps)
    images = 1 + group_size * len(sde_steps) * len(strides)
    return RolloutCost(anchor=steps, sde_steps=0, continuations=continuations, images=images)


def naive_cost(steps: int, sde_steps: Sequence[int], strides: Sequence[int], group_size: int) -> RolloutCost:
    """NFE of the public reference per prompt: a velocity per SDE sample, and every path from its start."""
    per_group = sum(len(continuation_path(steps, i, stride)) for i in sde_steps for stride in strides)
    images = 1 + group_size * len(sde_steps) * len(strides)
    return RolloutCost(steps, group_size * len(sde_steps), group_size * per_group, images)


@dataclass(frozen=True)
class SeedFormula:
    """The supplement's printed cost: S_λ = Σ_{m∈M} ⌊m/λ⌋, T_Λ = Σ_λ S_λ, Δ_Λ = (T_Λ − S_1)/T_Λ."""

    steps_by_stride: dict[int, int]
    total: int
    overhead: float


def seed_formula(steps: int, sde_steps: Iterable[int], strides: Sequence[int]) -> SeedFormula:
    """The supplement's formula (Section 7), with m = T − i.

    For T = 16, i ∈ {0..7}, Λ = {1,2,3} it gives 100 + 48 + 31 = 179 and 44.1%; the supplement prints 184 and 45.7%,
    which the formula gives only with ⌈m/3⌉ in place of ⌊m/3⌋.
    """
    left = [steps - i for i in sde_steps]
    by_stride = {stride: sum(m // stride for m in left) for stride in strides}
    total = sum(by_stride.values())
    base = sum(left)
    extra = total - by_stride.get(1, 0)
    overhead = extra / (base + extra)
    return SeedFormula(by_stride, total, overhead)
