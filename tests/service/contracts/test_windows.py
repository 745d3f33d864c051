"""MixGRPO's window and solver tail, and the NFE of chains, for every schedule that a spec allows."""

from collections import Counter
from itertools import pairwise

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from service.contracts.algorithms import DanceGRPO, FlowGRPO, MixGRPO
from service.contracts.algorithms.mix_grpo import Flash, Window
from service.contracts.schedule import draw, sigma_nodes, tail_nodes
from tests.worker.engine.grpo import transcription


@st.composite
def windows(draw: st.DrawFn, order: str) -> tuple[Window, int]:
    """A window and a schedule that contains it."""
    steps = draw(st.integers(2, 60))
    size, stride, every = draw(st.integers(1, steps - 1)), draw(st.integers(1, 60)), draw(st.integers(1, 30))
    return Window(size=size, order=order, stride=stride, every=every), steps


any_window = st.sampled_from(["progressive", "random"]).flatmap(windows)


@given(windows("progressive"))
def test_a_progressive_window_moves_by_its_stride_and_wraps_around(place: tuple[Window, int]) -> None:
    window, steps = place
    starts = [window.start(steps, step, 0) for step in range(150)]
    assert starts == transcription.progressive_starts(steps, window.size, window.stride, window.every, 150)


@given(any_window, st.integers(0, 2**63 - 1))
def test_a_window_is_never_empty_and_never_outside(place: tuple[Window, int], seed: int) -> None:
    window, steps = place
    algorithm = MixGRPO(window=window)
    for step in range(0, 40 * window.every, max(1, window.every // 2)):
        stochastic = algorithm.stochastic(steps, step, seed)
        assert len(stochastic) == window.size
        assert stochastic.start >= 0 and stochastic.stop <= steps - 1
        assert algorithm.tail(steps, stochastic.stop) >= 1


@given(any_window, st.integers(0, 1000), st.integers(0, 2**63 - 1))
def test_a_window_is_constant_between_moves(place: tuple[Window, int], move: int, seed: int) -> None:
    window, steps = place
    first = move * window.every
    assert len({window.start(steps, first + step, seed) for step in range(window.every)}) == 1


@given(windows("random"), st.integers(0, 2**63 - 1))
def test_a_random_window_has_the_positions_of_a_progressive_one(place: tuple[Window, int], seed: int) -> None:
    window, steps = place
    assume(len(window.positions(steps)) <= 12)
    visited = {window.start(steps, move * window.every, seed) for move in range(300)}
    assert visited == set(transcription.progressive_starts(steps, window.size, window.stride, 1, 60))


def test_a_random_window_is_uniform_and_depends_on_the_seed() -> None:
    window = Window(size=4, order="random", every=1)
    starts = [window.start(25, step, 42) for step in range(4200)]
    counts = Counter(starts)
    assert len(counts) == 21
    assert all(140 < count < 260 for count in counts.values())  # 200 ± 4 standard deviations
    assert starts != [window.start(25, step, 43) for step in range(4200)]


def test_draws_are_reproducible() -> None:
    """The numbers must not depend on the process, hash seed or library version, and must never change."""
    expected = [0, 10, 8, 1, 8, 13, 20, 4]
    assert [draw(21, 42, "window", move) for move in range(8)] == expected
    window = Window(size=4, order="random", every=25)
    assert [window.start(25, step, 42) for step in range(0, 200, 25)] == expected


@given(st.integers(2, 100), st.floats(0.5, 10), st.floats(0.01, 1), st.data())
def test_the_tail_is_equal_intervals_of_time_that_end_at_zero(
    steps: int, shift: float, share: float, data: st.DataObject
) -> None:
    start = data.draw(st.integers(1, steps - 1))
    intervals = MixGRPO(flash=Flash(share=share)).tail(steps, start)
    nodes = tail_nodes(steps, shift, start, intervals)
    assert nodes == pytest.approx(transcription.flash_sigmas(steps, shift, start, share), abs=1e-12)
    assert (nodes[0], nodes[-1]) == (sigma_nodes(steps, shift)[start], 0.0)
    assert all(one > other for one, other in pairwise(nodes))


def test_a_tail_of_every_step_is_the_schedule() -> None:
    assert tail_nodes(16, 3.0, 6, 10) == pytest.approx(sigma_nodes(16, 3.0)[6:], abs=1e-12)
    assert MixGRPO().tail(16, 6) == MixGRPO(flash=Flash(share=1.0)).tail(16, 6) == 10


def test_the_published_flash_uses_forty_percent_of_the_remaining_steps() -> None:
    algorithm = MixGRPO(flash=Flash())
    assert [algorithm.tail(25, stop) for stop in (4, 14, 23, 24)] == [8, 4, 1, 1]


@given(any_window, st.booleans(), st.none() | st.floats(0.05, 1.0), st.integers(1, 40), st.integers(0, 1000))
def test_the_nfe_of_a_run_is_the_sum_of_its_steps(
    place: tuple[Window, int], same_noise: bool, share: float | None, max_steps: int, seed: int
) -> None:
    window, steps = place
    flash = None if share is None else Flash(share=share)
    algorithm = MixGRPO(window=window, same_noise=same_noise, flash=flash, group_size=5)
    summed = sum(algorithm.cost(steps, step, seed).total for step in range(max_steps))
    estimate = algorithm.total_nfe(steps, max_steps, seed)
    if window.order == "progressive":
        assert estimate == summed
    else:  # the expected value, between the cheapest and the most expensive position
        costs = [algorithm._cost_at(steps, start).total for start in window.positions(steps)]
        assert max_steps * min(costs) <= estimate <= max_steps * max(costs)


def test_the_estimate_for_a_random_window_is_close_to_the_sum() -> None:
    algorithm = MixGRPO(window=Window(order="random", every=1))
    summed = sum(algorithm.cost(25, step, 42).total for step in range(2000))
    assert algorithm.total_nfe(25, 2000, 42) == pytest.approx(summed, rel=0.02)


@pytest.mark.parametrize("kind", [DanceGRPO, FlowGRPO])
@given(steps=st.integers(2, 60), group=st.integers(2, 20), same_noise=st.booleans())
def test_stochastic_chains_share_only_their_first_velocity(
    kind: type[DanceGRPO] | type[FlowGRPO], steps: int, group: int, same_noise: bool
) -> None:
    algorithm = kind(group_size=group, same_noise=same_noise)
    assert algorithm.stochastic(steps, 3, 0) == range(steps - 1)
    assert algorithm.naive_cost(steps, 0, 0).total == group * steps
    assert algorithm.cost(steps, 0, 0).total == group * steps - (group - 1 if same_noise else 0)
    assert algorithm.total_nfe(steps, 7, 0) == 7 * algorithm.cost(steps, 0, 0).total


@given(windows("progressive"), st.integers(2, 20), st.integers(0, 2000))
def test_chains_of_one_noise_share_everything_before_the_window(
    place: tuple[Window, int], group: int, step: int
) -> None:
    window, steps = place
    algorithm = MixGRPO(window=window, group_size=group)
    start = window.start(steps, step, 0)
    cost, naive = algorithm.cost(steps, step, 0), algorithm.naive_cost(steps, step, 0)
    assert naive.total == group * steps
    assert (cost.anchor, cost.sde_steps) == (start, 1 + group * (window.size - 1))
    assert cost.total == naive.total - (group - 1) * (start + 1)
    assert algorithm.trained(steps) == group * window.size


@given(st.integers(2, 60), st.floats(0.01, 1), st.integers(2, 20))
def test_dance_trains_its_share_of_each_chain_and_at_least_one_step(steps: int, share: float, group: int) -> None:
    algorithm = DanceGRPO(timestep_fraction=share, group_size=group)
    each = algorithm.trained_of_a_chain(steps)
    assert each == max(1, int(share * (steps - 1)))
    assert algorithm.trained(steps) == group * each
    assert DanceGRPO().trained_of_a_chain(16) == 9  # the published 60% of 15
