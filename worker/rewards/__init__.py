"""Rewards: one value per picture, higher is better, NaN where scoring failed. One file per reward."""

import torch

from service.contracts.catalog import RewardEntry
from worker import float32
from worker.rewards.base import Reward
from worker.rewards.clip import ClipReward
from worker.rewards.hps import HpsReward
from worker.rewards.http import HttpReward
from worker.rewards.image_reward import ImageReward
from worker.rewards.pickscore import PickScoreReward
from worker.rewards.shapes_bench_verifier import ShapesBenchVerifierReward
from worker.rewards.shapes_verifier import ShapesVerifierReward
from worker.rewards.unified_reward import UnifiedReward

KINDS: dict[str, type[Reward]] = {
    "clip": ClipReward,
    "hps": HpsReward,
    "image_reward": ImageReward,
    "pickscore": PickScoreReward,
    "unified_reward": UnifiedReward,
    "http": HttpReward,
    "shapes_verifier": ShapesVerifierReward,
    "shapes_bench_verifier": ShapesBenchVerifierReward,
}


def load_reward(entry: RewardEntry, device: torch.device) -> Reward:
    """The catalog's reward, ready to score on `device`."""
    float32.in_earnest()
    return KINDS[entry.kind].load(entry, device)


__all__ = ["KINDS", "Reward", "load_reward"]
