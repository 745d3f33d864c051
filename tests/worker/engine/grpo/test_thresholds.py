"""Values that are exactly equal to a threshold."""

import torch

from tests.worker.engine.grpo.toy import CONFIGS, PROMPTS, ToyFlow, make, roll_out
from worker.engine.grpo.advantages import group_z_scores
from worker.engine.grpo.loss import Objective, losses


def test_spread_equal_to_the_floor_is_not_rounding() -> None:
    rewards = torch.tensor([0.1, 0.7, 0.4], dtype=torch.float64)
    std = group_z_scores(rewards, 0.0, 0.0)[1].item()
    assert not group_z_scores(rewards, 0.0, std)[2]
    assert group_z_scores(rewards, 0.0, torch.nextafter(torch.tensor(std).double(), torch.tensor(1.0)).item())[2]


def test_ratio_at_the_very_end_of_the_clip_range_is_not_clipped() -> None:
    algorithm = make(CONFIGS["g2rpo"])
    batch = roll_out(CONFIGS["g2rpo"], ToyFlow()).batch
    advantages = torch.ones(PROMPTS * len(algorithm.group_steps) * algorithm.group_size, dtype=torch.float64)

    def part(clip_range: float) -> tuple[torch.Tensor, torch.Tensor]:
        objective = Objective(clip_range)
        made = next(losses(ToyFlow(0.1), batch, advantages, algorithm.transitions, objective, rows=2))
        return (made.ratios - 1.0).abs(), made.clipped

    deviations, _ = part(1.0)
    middle = deviations.flatten().sort().values[deviations.numel() // 2].item()
    assert torch.equal(part(middle)[1], deviations > middle)
