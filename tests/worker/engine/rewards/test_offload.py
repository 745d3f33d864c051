"""Rewards that stay on the CPU while they do not score."""

from collections.abc import Sequence

import torch
from torch import Tensor

from service.contracts.catalog import RewardEntry, load_catalog
from worker.engine.models.base import ImageSize
from worker.engine.rewards import load_reward
from worker.engine.rewards.base import Reward
from worker.engine.training.cost_meter import CostMeter
from worker.engine.training.distributed import Distributed
from worker.engine.training.reward_scorer import RewardScorer

CPU = torch.device("cpu")


class Wanderer(Reward):
    """Records the devices to which the reward was moved, and the devices on which it scored."""

    def __init__(self) -> None:
        self.moves: list[str] = []

    @classmethod
    def load(cls, entry: RewardEntry, device: torch.device) -> "Wanderer":
        return cls()

    def move(self, device: torch.device) -> None:
        self.moves.append(device.type)

    def score(self, images: Tensor, prompts: Sequence[str]) -> Tensor:
        self.moves.append("scored")
        return images.mean(dim=(1, 2, 3))


class Decoder:
    """A decoder for latents that are already images."""

    def decode(self, latents: Tensor, size: ImageSize) -> Tensor:
        return latents


def scored(offload: bool) -> list[str]:
    reward = Wanderer()
    scorer = RewardScorer(
        Decoder(),  # type: ignore[arg-type]
        {"wanderer": reward},
        ImageSize(8, 8),
        2,
        CostMeter(Distributed(CPU)),
        lambda: None,
        offload,
    )
    scorer.score(torch.zeros(4, 3, 8, 8), ["a"] * 4, ["wanderer"])
    return reward.moves


def test_rewards_are_at_hand_only_while_they_score() -> None:
    assert scored(offload=True) == ["cpu", "cpu", "scored", "scored", "cpu"]


def test_rewards_that_are_not_offloaded_stay() -> None:
    assert scored(offload=False) == ["scored", "scored"]


def test_moved_clip_moves_all_tensors() -> None:
    reward = load_reward(load_catalog().reward("clip_score"), CPU)
    images, prompts = torch.rand(2, 3, 32, 32), ["a small red circle on white"] * 2
    before = reward.score(images, prompts)
    reward.move(torch.device("meta"))
    assert reward.score(images.to("meta"), prompts).device.type == "meta"
    assert before.isfinite().all()
