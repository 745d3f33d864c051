"""Computation of advantages from rewards: z-scores within each group, summed over rewards and granularities."""

from dataclasses import dataclass

import torch
from torch import Tensor

from service.contracts.algorithms import Advantage


@dataclass(frozen=True)
class Advantages:
    """Advantages and their statistics.

    values: [..., group]. spread: [rewards, ..., granularities], each group's standard deviation, NaN if it has fewer
    than two valid values. zero_std_fraction: the fraction of groups that contribute 0 because they are flat.
    """

    values: Tensor
    spread: Tensor
    zero_std_fraction: float


def group_z_scores(
    rewards: Tensor, std_eps: float, std_floor: float, batch: tuple[int, ...] = (-1,)
) -> tuple[Tensor, Tensor, Tensor]:
    """Compute z-scores (R − mean)/(std + std_eps) over the last dimension, ignoring missing values (NaN).

    rewards: [..., group]. batch: the dimensions over which the standard deviation in the divisor is computed: by
    default the group dimension, or all dimensions of the batch (Flow-GRPO's global std).

    Returns scores of the same shape as `rewards`, the unbiased std of each group [...], and whether each group is flat
    [...]. Missing values have score 0 and do not affect other scores. A group is flat if it has fewer than two valid
    values, so that its std is NaN, or if the std in the divisor is below `std_floor`. All scores of a flat group are 0.
    """
    mean, std = _moments(rewards, (-1,))
    valid = rewards.isfinite()
    centered = torch.where(valid, rewards - mean, 0.0)
    divisor = std if batch == (-1,) else _moments(rewards, batch)[1].expand_as(std)
    usable = std.isfinite() & (divisor >= max(std_floor, torch.finfo(std.dtype).tiny))
    scores = torch.where(usable & valid, centered / (divisor + std_eps), 0.0)
    return scores, std.squeeze(-1), ~usable.squeeze(-1)


def _moments(rewards: Tensor, dims: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    """Compute the mean and unbiased std of the valid values over `dims`, keeping these dimensions.

    The std is NaN if there are fewer than two valid values. The values are summed as distances from the maximum, so
    that equal values have exactly that mean and an std of 0. Otherwise, rounding errors divided by their own std would
    become advantages.
    """
    valid = rewards.isfinite()
    count = valid.sum(dim=dims, keepdim=True)
    highest = torch.where(valid, rewards, -torch.inf).amax(dim=dims, keepdim=True)
    highest = torch.where(count > 0, highest, 0.0)
    below = torch.where(valid, rewards - highest, 0.0)
    mean = below.sum(dim=dims, keepdim=True) / count.clamp(min=1)
    square = torch.where(valid, below - mean, 0.0).square().sum(dim=dims, keepdim=True)
    return highest + mean, torch.where(count >= 2, (square / (count - 1).clamp(min=1)).sqrt(), torch.nan)


def integrate_advantages(rewards: Tensor, weights: list[float], config: Advantage) -> Advantages:
    """Integrate advantages over rewards and granularities: Â = Σ_k w_k Σ_λ A^k_λ, clamped to ±clip_max.

    rewards: [rewards, ..., group, granularities], NaN where a reward failed. If the aggregation is `reward`, A is the
    z-score of Σ_k w_k R^k. The scale `mean` divides by Σ|w|·|Λ|, or by |Λ| if the aggregation is `reward`. Source:
    MGAI (Multi-Granularity Advantage Integration) in the paper.
    """
    tables = rewards.movedim(-2, -1)  # [rewards, ..., granularities, group]
    weight = torch.tensor(weights, dtype=rewards.dtype, device=rewards.device)
    spread = _moments(tables, (-1,))[1].squeeze(-1)
    total_weight = weight.abs().sum()
    if config.aggregation == "reward":
        tables = torch.einsum("k,k...->...", weight, tables)[None]
        weight, total_weight = weight.new_ones(1), weight.new_ones(())
    everything_but_strides = (*range(1, tables.dim() - 2), tables.dim() - 1)
    batch = everything_but_strides if config.std == "batch" else (-1,)
    scores, _, flat = group_z_scores(tables, config.std_eps, config.std_floor, batch)
    total = torch.einsum("k,k...->...", weight, scores).sum(dim=-2)
    if config.scale == "mean":
        total = total / (total_weight * rewards.shape[-1])
    return Advantages(total.clamp(-config.clip_max, config.clip_max), spread, flat.float().mean().item())
