"""Rewards: one value per image, higher is better, NaN where scoring failed. One file per reward."""

import torch

from service.contracts.catalog import RewardEntry
from worker.engine import precision
from worker.engine.rewards.base import Reward
from worker.engine.rewards.clip import ClipReward
from worker.engine.rewards.hps import HpsReward
from worker.engine.rewards.http import HttpReward
from worker.engine.rewards.image_reward import ImageReward
from worker.engine.rewards.pickscore import PickScoreReward
from worker.engine.rewards.shapes_verifier import ShapesBenchVerifierReward, ShapesVerifierReward
from worker.engine.rewards.unified_reward import UnifiedReward

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
    precision.disable_tf32()
    return KINDS[entry.kind].load(entry, device)


__all__ = ["KINDS", "Reward", "load_reward"]
