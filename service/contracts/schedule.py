"""The denoising schedule in pure Python: σ nodes, continuation paths, shared computation, and NFE.

Both the plans and the engine use these functions. Nodes are numbered i = 0 to T, with σ_0 = 1 and σ_T = 0; the paper
numbers timesteps by the remaining steps, m = T − i.
"""

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass


def sigma_nodes(steps: int, shift: float) -> tuple[float, ...]:
    """Return the T+1 noise levels σ_i = s·t_i / (1 + (s−1)·t_i) at t_i = 1 − i/T, from σ_0 = 1 down to σ_T = 0."""
    times = [1.0 - i / steps for i in range(1, steps + 1)]
    return (1.0, *(shifted(t, shift) for t in times))  # exactly 1, independent of rounding


def shifted(time: float, shift: float) -> float:
    """Return the noise level σ = s·t / (1 + (s−1)·t) at time t, with 0 ≤ t ≤ 1."""
    return shift * time / (1.0 + (shift - 1.0) * time)


def tail_nodes(steps: int, shift: float, start: int, intervals: int) -> tuple[float, ...]:
    """Return the noise levels that divide the time from node `start` to 0 into `intervals` equal intervals.

    Both ends are included, so there are intervals + 1 noise levels.
    """
    first = 1.0 - start / steps
    times = [first * (1.0 - j / intervals) for j in range(1, intervals + 1)]
    return (sigma_nodes(steps, shift)[start], *(shifted(t, shift) for t in times))


def draw(below: int, seed: int, *address: int | str) -> int:
    """Return a pseudorandom integer from 0 to below − 1 that depends only on the seed and address.

    Plans and all processes therefore get the same number.
    """
    text = "\x1f".join(str(part) for part in (seed, *address))
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big") % below


def continuation_path(steps: int, sde_step: int, stride: int) -> tuple[int, ...]:
    """Return the nodes at which the model is evaluated after the SDE step i = `sde_step`, when denoising with stride λ.

    The nodes are i+1, then i+2+jλ for j = 0, 1, … while i+2+(j+1)λ ≤ T. The last node is followed by σ = 0. There are
    ⌈(T−1−i)/λ⌉ nodes. Raises ValueError if `sde_step` or `stride` is out of range. Source: the paper's
    multi-granularity denoising, as scheduled in its public implementation.
    """
    if not 0 <= sde_step <= steps - 2:
        raise ValueError(f"SDE step {sde_step} is outside the schedule: allowed: 0 to {steps - 2}")
    if stride < 1:
        raise ValueError(f"stride {stride} is not positive")
    return (sde_step + 1, *range(sde_step + 2, steps - stride + 1, stride))


@dataclass(frozen=True)
class TreeNode:
    """A network evaluation in a tree of continuations with shared prefixes.

    `node` is the index of the noise level, and `children` are the evaluations that follow. `ends` lists the strides
    whose path ends at this node; the clean estimate x̂_0 = x − σ·v is their finished image.
    """

    node: int
    children: tuple["TreeNode", ...]
    ends: tuple[int, ...]

    def count(self) -> int:
        """Return the NFE of the subtree, including this node."""
        return 1 + sum(child.count() for child in self.children)


def continuation_tree(steps: int, sde_step: int, strides: Sequence[int]) -> TreeNode:
    """Return the tree of all continuations of an SDE step, in which shared prefixes are evaluated once."""
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
    """NFE by part, and number of images, for the rollout of one prompt."""

    anchor: int
    sde_steps: int
    continuations: int
    images: int

    @property
    def total(self) -> int:
        return self.anchor + self.sde_steps + self.continuations


def chain_cost(stochastic: range, group_size: int, same_noise: bool, tail: int) -> RolloutCost:
    """Return the NFE for the G chains of a prompt: before, during and after the SDE steps.

    `tail` is the NFE per chain after the SDE steps. Chains that start from the same noise share all evaluations up to
    and including the first SDE step's.
    """
    prefixes = 1 if same_noise else group_size
    anchor = prefixes * stochastic.start
    branch = prefixes + group_size * (len(stochastic) - 1)
    return RolloutCost(anchor, branch, group_size * tail, images=group_size)


def shared_cost(steps: int, sde_steps: Sequence[int], strides: Sequence[int], group_size: int) -> RolloutCost:
    """Return the NFE per prompt of this implementation, which reuses anchor velocities and shares path prefixes."""
    continuations = group_size * sum(continuation_tree(steps, i, strides).count() for i in sde_steps)
    images = 1 + group_size * len(sde_steps) * len(strides)
    return RolloutCost(anchor=steps, sde_steps=0, continuations=continuations, images=images)


def naive_cost(steps: int, sde_steps: Sequence[int], strides: Sequence[int], group_size: int) -> RolloutCost:
    """Return the NFE per prompt of the public reference, which evaluates each SDE sample and path separately."""
    per_group = sum(len(continuation_path(steps, i, stride)) for i in sde_steps for stride in strides)
    images = 1 + group_size * len(sde_steps) * len(strides)
    return RolloutCost(steps, group_size * len(sde_steps), group_size * per_group, images)


@dataclass(frozen=True)
class SeedFormula:
    """The cost as defined in the supplement: S_λ = Σ_{m∈M} ⌊m/λ⌋, T_Λ = Σ_λ S_λ, Δ_Λ = (T_Λ − S_1)/T_Λ."""

    steps_by_stride: dict[int, int]
    total: int
    overhead: float


def seed_formula(steps: int, sde_steps: Iterable[int], strides: Sequence[int]) -> SeedFormula:
    """Compute the cost by the supplement's formula (Section 7), with m = T − i.

    For T = 16, i ∈ {0..7} and Λ = {1,2,3}, the formula yields 100 + 48 + 31 = 179 and 44.1%. The supplement prints 184
    and 45.7%, which result if ⌊m/3⌋ is replaced by ⌈m/3⌉.
    """
    left = [steps - i for i in sde_steps]
    by_stride = {stride: sum(m // stride for m in left) for stride in strides}
    total = sum(by_stride.values())
    base = sum(left)
    extra = total - by_stride.get(1, 0)
    overhead = extra / (base + extra)
    return SeedFormula(by_stride, total, overhead)
