"""Advantages: z-scores, missing values, floors, and their integration over rewards and granularities."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from worker.grpo.advantages import AdvantageConfig, group_z_scores, integrate_advantages

PAPER = AdvantageConfig(clip_max=5.0, std_eps=1e-8, std_floor=1e-5, scale="sum")
UNCLIPPED = AdvantageConfig(clip_max=1e9, std_eps=1e-8, std_floor=1e-5, scale="sum")

# Multiples of 1/64: spreads are either 0 or far above the floor, so that no example sits on its edge.
values = st.integers(-640, 640).map(lambda n: n / 64)
groups = st.integers(2, 16).flatmap(lambda g: arrays(np.float64, (g,), elements=values))
tables = arrays(np.float64, (2, 3, 4, 6, 3), elements=values)  # rewards, prompts, SDE steps, group, granularities


def transcription(rewards: np.ndarray, weights: list[float], eps: float, floor: float) -> np.ndarray:
    """Â_{p,i,g} = Σ_k w_k Σ_λ (R − mean_g)/(std_g + eps), written as loops over NumPy groups."""
    kinds, prompts, steps, group, strides = rewards.shape
    total = np.zeros((prompts, steps, group))
    for k in range(kinds):
        for p in range(prompts):
            for i in range(steps):
                for s in range(strides):
                    r = rewards[k, p, i, :, s]
                    std = r.std(ddof=1)
                    if std >= floor:
                        total[p, i] += weights[k] * (r - r.mean()) / (std + eps)
    return total


@given(tables, st.lists(st.floats(-2, 2), min_size=2, max_size=2))
def test_integration_is_the_formula(rewards: np.ndarray, weights: list[float]) -> None:
    result = integrate_advantages(torch.from_numpy(rewards), weights, UNCLIPPED)
    expected = transcription(rewards, weights, UNCLIPPED.std_eps, UNCLIPPED.std_floor)
    assert result.values.numpy() == pytest.approx(expected, abs=1e-12)


@given(tables)
def test_mean_scale_divides_by_weights_and_granularities(rewards: np.ndarray) -> None:
    table = torch.from_numpy(rewards)
    mean = AdvantageConfig(1e9, 1e-8, 1e-5, "mean")
    total = integrate_advantages(table, [1.0, -3.0], UNCLIPPED).values
    torch.testing.assert_close(integrate_advantages(table, [1.0, -3.0], mean).values, total / 12, rtol=0, atol=1e-12)


@given(tables, st.permutations(range(6)))
def test_permuting_a_group_permutes_its_advantages(rewards: np.ndarray, order: list[int]) -> None:
    table = torch.from_numpy(rewards)
    straight = integrate_advantages(table, [1.0, 0.5], PAPER).values
    permuted = integrate_advantages(table[:, :, :, order], [1.0, 0.5], PAPER).values
    torch.testing.assert_close(permuted, straight[:, :, order], rtol=0, atol=1e-12)


@given(groups, st.floats(0.5, 20), values)
def test_scores_do_not_feel_the_rewards_unit_or_offset(rewards: np.ndarray, unit: float, offset: float) -> None:
    plain, _, _ = group_z_scores(torch.from_numpy(rewards), 0.0, 1e-5)
    moved, _, _ = group_z_scores(torch.from_numpy(rewards * unit + offset), 0.0, 1e-5)
    torch.testing.assert_close(moved, plain, rtol=0, atol=1e-7)


@given(groups, st.data())
def test_a_missing_reward_is_as_if_the_sample_had_not_been(rewards: np.ndarray, data: st.DataObject) -> None:
    lost = data.draw(st.integers(0, len(rewards) - 1))
    holed = rewards.copy()
    holed[lost] = np.nan
    scores, std, _ = group_z_scores(torch.from_numpy(holed), 1e-8, 1e-5)
    rest, rest_std, _ = group_z_scores(torch.from_numpy(np.delete(rewards, lost)), 1e-8, 1e-5)
    assert scores[lost] == 0.0
    torch.testing.assert_close(torch.cat([scores[:lost], scores[lost + 1 :]]), rest, rtol=0, atol=1e-12)
    torch.testing.assert_close(std, rest_std, rtol=0, atol=1e-12, equal_nan=True)


def test_a_failed_reward_moves_no_other_samples_rank() -> None:
    rewards = torch.tensor([[0.1, 0.4, float("nan"), 0.2, float("inf"), 0.3]])
    scores, _, _ = group_z_scores(rewards, 1e-8, 1e-5)
    kept = scores[0, [0, 3, 5, 1]]
    assert torch.equal(kept.argsort(), torch.arange(4))
    assert scores[0, 2] == scores[0, 4] == 0


@pytest.mark.parametrize("valid", [0, 1])
def test_fewer_than_two_valid_values_say_nothing(valid: int) -> None:
    rewards = torch.full((1, 4), torch.nan)
    rewards[0, :valid] = 0.3
    scores, std, _ = group_z_scores(rewards, 1e-8, 1e-5)
    assert torch.equal(scores, torch.zeros(1, 4))
    assert std.isnan().all()


def test_a_spread_under_the_floor_is_rounding_and_is_counted() -> None:
    rewards = torch.rand(1, 2, 2, 6, 1, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    rewards[0, 0, 0] = 0.3 + 1e-7 * rewards[0, 0, 0]
    result = integrate_advantages(rewards, [1.0], PAPER)
    assert torch.equal(result.values[0, 0], torch.zeros(6, dtype=torch.float64))
    assert result.values[0, 1].abs().min() > 0
    assert result.zero_std_fraction == 0.25


def test_equal_rewards_do_not_divide_by_zero() -> None:
    no_eps = AdvantageConfig(5.0, std_eps=0.0, std_floor=0.0, scale="sum")
    result = integrate_advantages(torch.full((1, 1, 1, 4, 2), 0.5), [1.0], no_eps)
    assert torch.equal(result.values, torch.zeros(1, 1, 4))


@given(tables)
def test_advantages_are_clamped(rewards: np.ndarray) -> None:
    tight = AdvantageConfig(0.5, 1e-8, 1e-5, "sum")
    assert integrate_advantages(torch.from_numpy(rewards), [1.0, 1.0], tight).values.abs().max() <= 0.5
