"""The documented shapes of results."""

import pytest
import torch

from tests.worker.engine.grpo.test_advantages import OPTIONS, PAPER
from worker.engine.grpo.advantages import integrate_advantages


@pytest.mark.parametrize("options", OPTIONS, ids=lambda options: "-".join(options.values()))
@pytest.mark.parametrize("prompts", [1, 3])
def test_advantages_have_one_value_per_sample_and_spreads_one_per_reward_and_granularity(
    options: dict[str, str], prompts: int
) -> None:
    rewards = torch.rand(2, prompts, 4, 6, 5, generator=torch.Generator().manual_seed(0))
    config = PAPER.model_copy(update=options)
    result = integrate_advantages(rewards, [1.0, 1.0], config)
    assert result.values.shape == (prompts, 4, 6)
    assert result.spread.shape == (2, prompts, 4, 5)
