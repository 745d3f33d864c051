"""σ nodes, continuation paths and shared prefixes, for every schedule that a spec allows."""

import math
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.contracts.schedule import (
    TreeNode,
    continuation_path,
    continuation_tree,
    naive_cost,
    seed_formula,
    shared_cost,
    sigma_nodes,
)
from tests.worker.engine.grpo import transcription

PAPER = (16, tuple(range(8)), (1, 2, 3), 12)


@st.composite
def places(draw: st.DrawFn) -> tuple[int, int]:
    steps = draw(st.integers(2, 60))
    return steps, draw(st.integers(0, steps - 2))


strides_lists = st.lists(st.integers(1, 12), min_size=1, max_size=5, unique=True)


def reference_path(steps: int, i: int, stride: int) -> list[int]:
    """The public implementation's node list σ_{i+1}, σ_{i+2}, σ_{i+2+λ}, …, whose last node is never evaluated."""
    nodes = [i + 1, *range(i + 2, steps + 1, stride)]
    return nodes[:-1]


def paths(tree: TreeNode, before: tuple[int, ...] = ()) -> dict[int, tuple[int, ...]]:
    here = (*before, tree.node)
    found = dict.fromkeys(tree.ends, here)
    for child in tree.children:
        found |= paths(child, here)
    return found


@given(st.integers(2, 200), st.floats(0.1, 10))
def test_nodes_decrease_from_one_to_zero(steps: int, shift: float) -> None:
    nodes = sigma_nodes(steps, shift)
    assert nodes[0] == 1.0
    assert nodes[-1] == 0.0
    assert all(a > b for a, b in pairwise(nodes))


@given(st.integers(2, 200), st.floats(0.1, 20))
def test_nodes_are_the_published_formula(steps: int, shift: float) -> None:
    assert sigma_nodes(steps, shift) == pytest.approx(transcription.sigmas(steps, shift), rel=0, abs=1e-12)


@given(st.integers(2, 200), st.floats(0.5, 10))
def test_nodes_are_the_pipelines_sigmas(steps: int, shift: float) -> None:
    t = np.linspace(1.0, 1 / steps, steps)
    assert sigma_nodes(steps, shift)[:-1] == pytest.approx(shift * t / (1 + (shift - 1) * t), abs=1e-12)


@given(places(), st.integers(1, 20))
def test_a_path_is_the_reference_schedule(place: tuple[int, int], stride: int) -> None:
    steps, i = place
    path = continuation_path(steps, i, stride)
    assert list(path) == reference_path(steps, i, stride) == transcription.path(steps, i, stride)
    assert len(path) == math.ceil((steps - 1 - i) / stride)


@given(places(), strides_lists)
def test_the_tree_contains_every_path_and_shares_prefixes(place: tuple[int, int], strides: list[int]) -> None:
    steps, i = place
    tree = continuation_tree(steps, i, strides)
    wanted = {stride: continuation_path(steps, i, stride) for stride in strides}
    assert paths(tree) == wanted
    beginnings = {path[: n + 1] for path in wanted.values() for n in range(len(path))}
    assert tree.count() == len(beginnings)


@pytest.mark.parametrize("i", [-1, 15, 16])
def test_a_step_outside_the_schedule_is_refused(i: int) -> None:
    with pytest.raises(ValueError, match="allowed: 0 to 14"):
        continuation_path(16, i, 1)


def test_the_rollout_of_the_paper_costs_1708_instead_of_2188_nfe() -> None:
    shared, naive = shared_cost(*PAPER), naive_cost(*PAPER)
    assert (shared.anchor, shared.sde_steps, shared.continuations, shared.total) == (16, 0, 1692, 1708)
    assert (naive.anchor, naive.sde_steps, naive.continuations, naive.total) == (16, 96, 2076, 2188)
    assert shared.images == naive.images == 289


def test_the_supplements_formula_gives_179_steps_not_the_printed_184() -> None:
    formula = seed_formula(16, range(8), (1, 2, 3))
    assert formula.steps_by_stride == {1: 100, 2: 48, 3: 31}
    assert formula.total == 179
    assert formula.overhead == pytest.approx(0.441, abs=5e-4)
    rounding_up = sum(math.ceil(m / 3) for m in range(9, 17))
    assert 100 + 48 + rounding_up == 184
    assert (48 + rounding_up) / 184 == pytest.approx(0.457, abs=5e-4)
