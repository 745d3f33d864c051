"""Advantages: z-scores, missing values, floors, and their integration over rewards and granularities."""

from itertools import product
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from service.contracts.algorithms import Advantage
from tests.worker.engine.grpo import transcription
from worker.engine.grpo.advantages import Advantages, group_z_scores, integrate_advantages

PAPER = Advantage(clip_max=5.0, std_eps=1e-8, std_floor=1e-5, scale="sum")


def replace(config: Advantage, **changes: Any) -> Advantage:
    """The settings with some changes, which may exceed the contract's bounds."""
    return config.model_copy(update=changes)


UNCLIPPED = replace(PAPER, clip_max=1e9)
OPTIONS = [
    {"scale": scale, "aggregation": aggregation, "std": std}
    for scale, aggregation, std in product(("sum", "mean"), ("advantage", "reward"), ("group", "batch"))
]
every_option = pytest.mark.parametrize("options", OPTIONS, ids=lambda options: "-".join(options.values()))

# Multiples of 1/64, so that standard deviations are either 0 or far above the floor.
values = st.integers(-640, 640).map(lambda n: n / 64)
groups = st.integers(2, 16).flatmap(lambda g: arrays(np.float64, (g,), elements=values))
SHAPE = (2, 3, 2, 6, 3)  # rewards, prompts, SDE steps, group, granularities
tables = arrays(np.float64, SHAPE, elements=values)
holed_tables = arrays(np.float64, SHAPE, elements=st.one_of(values, values, values, st.just(np.nan)))
two_weights = st.lists(st.sampled_from([-2.0, -0.5, 0.25, 1.0, 3.0]), min_size=2, max_size=2)


def integrate(rewards: np.ndarray, weights: list[float], config: Advantage) -> Advantages:
    return integrate_advantages(torch.from_numpy(rewards), weights, config)


@every_option
@settings(max_examples=15)
@given(rewards=holed_tables, weights=two_weights, clip=st.sampled_from([0.5, 5.0, 1e9]))
def test_integration_is_the_formula(
    options: dict[str, str], rewards: np.ndarray, weights: list[float], clip: float
) -> None:
    config = replace(PAPER, clip_max=clip, **options)
    result = integrate(rewards, weights, config)
    expected = transcription.advantages(rewards, weights, clip=clip, eps=1e-8, floor=1e-5, options=options)
    assert result.values.numpy() == pytest.approx(expected, rel=0, abs=1e-12)


@given(holed_tables)
def test_spread_is_each_groups_own_deviation(rewards: np.ndarray) -> None:
    spread = integrate(rewards, [1.0, 1.0], PAPER).spread.numpy()
    places = product(*(range(SHAPE[axis]) for axis in (0, 1, 2, 4)))
    expected = [transcription.spread(rewards[k, p, i, :, s].tolist())[1] for k, p, i, s in places]
    assert spread.flatten() == pytest.approx(expected, abs=1e-12, nan_ok=True)


@every_option
@settings(max_examples=15)
@given(rewards=tables, order=st.permutations(range(6)))
def test_permuting_a_group_permutes_its_advantages(
    options: dict[str, str], rewards: np.ndarray, order: list[int]
) -> None:
    config = replace(PAPER, **options)
    straight = integrate(rewards, [1.0, 0.5], config).values
    permuted = integrate(rewards[:, :, :, order], [1.0, 0.5], config).values
    torch.testing.assert_close(permuted, straight[:, :, order], rtol=0, atol=1e-12)


@pytest.mark.parametrize("std", ["group", "batch"])
@given(rewards=tables, unit=st.sampled_from([0.5, 3.0, 20.0]), offset=values)
def test_advantages_are_invariant_to_scale_and_offset(
    std: str, rewards: np.ndarray, unit: float, offset: float
) -> None:
    config = replace(UNCLIPPED, std_eps=0.0, std=std)
    moved = rewards.copy()
    moved[1] = moved[1] * unit + offset
    plain, other = (integrate(table, [1.0, -0.5], config).values for table in (rewards, moved))
    torch.testing.assert_close(other, plain, rtol=0, atol=1e-10)


def test_sum_before_normalization_favors_the_widest_spread() -> None:
    rewards = np.zeros((2, 1, 1, 4, 1))
    rewards[0, 0, 0, :, 0] = [1.0, 2.0, 3.0, 4.0]
    rewards[1, 0, 0, :, 0] = [40.0, 30.0, 20.0, 10.0]
    first = integrate(rewards, [1.0, 1.0], replace(PAPER, aggregation="reward")).values.flatten()
    apart = integrate(rewards, [1.0, 1.0], PAPER).values.flatten()
    assert (first.diff() < 0).all()
    torch.testing.assert_close(apart, torch.zeros(4, dtype=torch.float64), rtol=0, atol=1e-7)


@given(groups, st.data())
def test_missing_reward_excludes_the_sample(rewards: np.ndarray, data: st.DataObject) -> None:
    lost = data.draw(st.integers(0, len(rewards) - 1))
    holed = rewards.copy()
    holed[lost] = data.draw(st.sampled_from([np.nan, np.inf, -np.inf]))
    scores, std, _ = group_z_scores(torch.from_numpy(holed), 1e-8, 1e-5)
    rest, rest_std, _ = group_z_scores(torch.from_numpy(np.delete(rewards, lost)), 1e-8, 1e-5)
    assert scores[lost] == 0.0
    torch.testing.assert_close(torch.cat([scores[:lost], scores[lost + 1 :]]), rest, rtol=0, atol=1e-12)
    torch.testing.assert_close(std, rest_std, rtol=0, atol=1e-12, equal_nan=True)


@pytest.mark.parametrize("std", ["group", "batch"])
@given(rewards=tables, data=st.data())
def test_failed_reward_does_not_change_other_ranks(std: str, rewards: np.ndarray, data: st.DataObject) -> None:
    config = replace(UNCLIPPED, std=std)
    p, i, g = data.draw(st.tuples(st.integers(0, 2), st.integers(0, 1), st.integers(0, 5)))
    one = rewards[:1, :, :, :, :1]
    holed = one.copy()
    holed[0, p, i, g] = np.nan
    plain, after = (integrate(table, [1.0], config).values.numpy() for table in (one, holed))
    others = [h for h in range(6) if h != g]
    if after[p, i].any() and plain[p, i].any():
        assert (np.argsort(after[p, i, others], kind="stable") == np.argsort(plain[p, i, others], kind="stable")).all()
    elsewhere = np.ones((3, 2), bool)
    elsewhere[p, i] = False
    if std == "group":
        assert np.array_equal(after[elsewhere], plain[elsewhere])
    else:  # the standard deviation of the step differs by one factor for all groups
        ratio = plain[elsewhere][plain[elsewhere] != 0] / after[elsewhere][after[elsewhere] != 0]
        assert ratio == pytest.approx(np.full_like(ratio, ratio[0]) if len(ratio) else ratio, rel=1e-9)


@pytest.mark.parametrize("valid", [0, 1])
def test_fewer_than_two_valid_values_give_zero_advantage(valid: int) -> None:
    rewards = torch.full((1, 4), torch.nan)
    rewards[0, :valid] = 0.3
    scores, std, flat = group_z_scores(rewards, 1e-8, 1e-5)
    assert torch.equal(scores, torch.zeros(1, 4))
    assert std.isnan().all() and flat.all()


def test_single_value_has_zero_advantage_under_batch_deviation() -> None:
    rewards = np.random.default_rng(0).normal(size=(1, 3, 1, 4, 1))
    rewards[0, 1, 0, 1:] = np.nan
    result = integrate(rewards, [1.0], replace(PAPER, std="batch"))
    assert not result.values[1].any()
    assert result.values[[0, 2]].all()
    assert result.zero_std_fraction == pytest.approx(1 / 3)


def test_spread_below_the_floor_is_rounding_and_is_counted() -> None:
    rewards = torch.rand(1, 2, 2, 6, 1, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    rewards[0, 0, 0] = 0.3 + 1e-7 * rewards[0, 0, 0]
    result = integrate_advantages(rewards, [1.0], PAPER)
    assert torch.equal(result.values[0, 0], torch.zeros(6, dtype=torch.float64))
    assert result.values[0, 1].abs().min() > 0
    assert result.zero_std_fraction == 0.25


@every_option
@settings(max_examples=15)
@given(value=st.floats(-1000, 1000, width=32), group=st.integers(2, 24), eps=st.sampled_from([0.0, 1e-8]))
@pytest.mark.parametrize("floor", [0.0, 1e-5])
def test_constant_groups_give_zero_whatever_the_floor(
    options: dict[str, str], value: float, group: int, eps: float, floor: float
) -> None:
    config = replace(PAPER, std_eps=eps, std_floor=floor, **options)
    rewards = torch.full((2, 2, 1, group, 2), value)
    result = integrate_advantages(rewards, [1.0, 1.0], config)
    assert torch.equal(result.values, torch.zeros(2, 1, group))
    assert result.zero_std_fraction == 1.0


def test_constant_group_has_zero_advantage_under_batch_deviation() -> None:
    rewards = torch.rand(1, 2, 1, 7, 1, generator=torch.Generator().manual_seed(0))
    rewards[0, 0] = 0.1
    result = integrate_advantages(rewards, [1.0], replace(PAPER, std="batch"))
    assert torch.equal(result.values[0], torch.zeros(1, 7))
    assert result.values[1].abs().min() > 1e-3


def test_groups_may_have_any_other_dimensions_and_the_mean_is_over_the_granularities() -> None:
    rewards = torch.rand(2, 3, 1, 5, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    config = replace(PAPER, clip_max=100.0)
    summed = integrate_advantages(rewards, [1.0, 0.5], config).values
    mean = integrate_advantages(rewards, [1.0, 0.5], replace(config, scale="mean")).values
    torch.testing.assert_close(mean * 1.5 * 4, summed)
    torch.testing.assert_close(integrate_advantages(rewards[:, 1, 0], [1.0, 0.5], config).values, summed[1, 0])
