"""Rewards: one value per image; higher is better, NaN means that scoring failed. One module per reward."""

import pkgutil

import torch

from service.contracts.catalog import REWARD_CLASSES, RewardEntry
from worker.engine import precision
from worker.engine.rewards.base import Reward


def load_reward(entry: RewardEntry, device: torch.device) -> Reward:
    """Load the reward of a catalog entry onto `device`."""
    precision.disable_tf32()
    reward: type[Reward] = pkgutil.resolve_name(f"{__name__}.{REWARD_CLASSES[entry.kind]}")
    return reward.load(entry, device)


__all__ = ["Reward", "load_reward"]
