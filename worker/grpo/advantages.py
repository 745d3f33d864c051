"""From rewards to advantages: z-scores within a group, summed over rewards and granularities."""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class AdvantageConfig:
    """How advantages are made; see `service.contracts.algorithms.Advantage` for meanings and sources."""

    clip_max: float
    std_eps: float
    std_floor: float
    scale: str


@dataclass(frozen=True)
class Advantages:
    """Advantages and what they were made of.

    values: [..., group]. terms, one per reward: [..., group, granularities]. spread, one per reward:
    [..., granularities], the group's standard deviation, NaN with fewer than two valid values.
    """

    values: Tensor
    spread: Tensor
    zero_std_fraction: float


def group_z_scores(rewards: Tensor, std_eps: float, std_floor: float) -> tuple[Tensor, Tensor, Tensor]:
    """z-scores over the last dimension, (R − mean)/(std + std_eps), with missing values (NaN) left out.

    rewards: [..., group]; returns scores of that shape, the unbiased std [...], and which groups are flat [...].
    A missing value is 0 and moves no other sample's score. A group is flat, all 0, with fewer than two valid values
    (its std is NaN) or with a std under `std_floor`.
    """
    valid = rewards.isfinite()
    count = valid.sum(dim=-1, keepdim=True)
    filled = torch.where(valid, rewards, 0.0)
    mean = filled.sum(dim=-1, keepdim=True) / count.clamp(min=1)
    centred = torch.where(valid, rewards - mean, 0.0)
    variance = centred.square().sum(dim=-1, keepdim=True) / (count - 1).clamp(min=1)
    std = torch.where(count >= 2, variance.sqrt(), torch.nan)
    usable = std >= max(std_floor, torch.finfo(std.dtype).tiny)
    scores = torch.where(usable & valid, centred / (std + std_eps), 0.0)
    return scores, std.squeeze(-1), ~usable.squeeze(-1)


def integrate_advantages(rewards: Tensor, weights: list[float], config: AdvantageConfig) -> Advantages:
    """Multi-granularity advantage integration: Â = Σ_k w_k Σ_λ A^k_λ, clamped to ±clip_max.

    rewards: [rewards, ..., group, granularities], NaN where a reward failed. Scale `mean` divides by Σ|w|·|Λ|.
    Source: the paper's MGAI.
    """
    scores, spread, flat = group_z_scores(rewards.movedim(-2, -1), config.std_eps, config.std_floor)
    weight = torch.tensor(weights, dtype=rewards.dtype, device=rewards.device)
    total = torch.einsum("k,k...->...", weight, scores).sum(dim=-2)
    if config.scale == "mean":
        total = total / (weight.abs().sum() * rewards.shape[-1])
    return Advantages(total.clamp(-config.clip_max, config.clip_max), spread, flat.float().mean().item())
