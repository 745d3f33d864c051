"""DPM-Solver++ compared with the paper's algorithm, and with a flow that has a known solution."""

import math
from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from service.contracts.schedule import sigma_nodes, tail_nodes
from tests.worker.engine.grpo import transcription
from tests.worker.engine.grpo.toy import CHANNELS, PROMPTS, TOKENS, ToyFlow
from worker.engine.grpo.noise import normal
from worker.engine.grpo.solvers import dpm_solver_pp, ode_trajectory

MEAN, WIDTH = 0.4, 0.7
"""The Gaussian target N(0.4, 0.7²), for which the velocity is linear in x."""


def gaussian_velocity(x: torch.Tensor, sigma: torch.Tensor, prompts: list[int]) -> torch.Tensor:
    """E[ε − x_0 | x_σ = x] of the Gaussian target."""
    level = sigma[:, None, None]
    centered = x - (1 - level) * MEAN
    variance = (1 - level) ** 2 * WIDTH**2 + level**2
    return level / variance * centered - (MEAN + (1 - level) * WIDTH**2 / variance * centered)


def gaussian_flow(x: torch.Tensor, sigma: float, following: float) -> torch.Tensor:
    """The exact solution for the Gaussian target from `x` at σ to a lower noise level, which preserves the quantile."""
    before, after = (math.sqrt((1 - level) ** 2 * WIDTH**2 + level**2) for level in (sigma, following))
    return (1 - following) * MEAN + after / before * (x - (1 - sigma) * MEAN)


START = torch.tensor([-1.3, 0.2, 0.9, 2.1], dtype=torch.float64)[:, None, None]


def error(nodes: Sequence[float]) -> float:
    """The error of the solver at σ = 0."""
    end = dpm_solver_pp(gaussian_velocity, START, nodes, [0] * len(START))
    return (end - gaussian_flow(START, nodes[0], 0.0)).abs().max().item()


def orders(errors: Sequence[float]) -> list[float]:
    """The convergence order, measured each time the step is halved."""
    return [math.log2(one / other) for one, other in pairwise(errors)]


@given(st.integers(4, 30), st.floats(0.5, 5.0), st.floats(0.1, 1.0), st.data())
def test_solver_equals_the_papers_algorithm(steps: int, shift: float, share: float, data: st.DataObject) -> None:
    start = data.draw(st.integers(1, steps - 1))
    flow = ToyFlow()
    x = normal((PROMPTS, TOKENS, CHANNELS), 3, "x").double()
    levels = transcription.flash_sigmas(steps, shift, start, share)
    with torch.no_grad():
        ends = dpm_solver_pp(flow, x, tail_nodes(steps, shift, start, len(levels) - 1), list(range(PROMPTS)))
    assert flow.nfe == PROMPTS * (len(levels) - 1)
    for p in range(PROMPTS):

        def v(state: np.ndarray, sigma: float, prompt: int = p) -> np.ndarray:
            return flow.plain(state, sigma, prompt)

        expected = transcription.dpm_solver(v, x[p].numpy(), levels)
        assert ends[p].numpy() == pytest.approx(expected, rel=0, abs=1e-12)


def test_solver_error_is_quadratic_in_the_step() -> None:
    """Noise levels with equal steps in the solver's variable λ = log((1−σ)/σ), so that every step can be halved."""
    first, last = (math.log((1 - sigma) / sigma) for sigma in (0.9, 0.02))
    errors = []
    for intervals in (32, 64, 128):
        nodes = [1 / (1 + math.exp(first + (last - first) * j / intervals)) for j in range(intervals + 1)]
        before = gaussian_flow(START, nodes[0], nodes[-1])
        sigma = torch.full((len(START),), nodes[-1], dtype=torch.float64)
        exact = before - nodes[-1] * gaussian_velocity(before, sigma, [])
        end = dpm_solver_pp(gaussian_velocity, START, [*nodes, 0.0], [0] * len(START))
        errors.append((end - exact).abs().max().item())
    assert orders(errors) == pytest.approx([2.0, 2.0], abs=0.03)


@pytest.mark.parametrize("shift", [1.0, 3.0])
def test_solver_has_second_order_on_the_schedule_and_euler_first(shift: float) -> None:
    """Near σ = 0, steps of equal time are long in λ, so the order approaches 2 from below."""
    ladder = [tail_nodes(16, shift, 4, intervals) for intervals in (256, 512, 1024)]
    euler = [ode_trajectory(gaussian_velocity, START, nodes, 4).end for nodes in ladder]
    exact = gaussian_flow(START, ladder[0][0], 0.0)
    first = [(end - exact).abs().max().item() for end in euler]
    second = [error(nodes) for nodes in ladder]
    assert orders(first) == pytest.approx([1.0] * 2, abs=0.1)
    assert all(1.7 < order < 2.05 for order in orders(second))
    assert sorted(orders(second)) == orders(second)
    assert all(one > 10 * other for one, other in zip(first, second, strict=True))


def test_single_interval_gives_the_clean_estimate() -> None:
    nodes = tail_nodes(8, 3.0, 5, 1)
    assert nodes == (sigma_nodes(8, 3.0)[5], 0.0)
    end = dpm_solver_pp(gaussian_velocity, START, nodes, [0] * len(START))
    sigma = torch.full((len(START),), nodes[0], dtype=torch.float64)
    expected = START - nodes[0] * gaussian_velocity(START, sigma, [])
    torch.testing.assert_close(end, expected, rtol=0, atol=1e-14)


@pytest.mark.parametrize("last", [0.01, 1e-9])
def test_nodes_that_stop_above_zero_are_refused(last: float) -> None:
    with pytest.raises(ValueError, match=f"end at σ = {last}"):
        dpm_solver_pp(gaussian_velocity, START, (0.8, 0.4, last), [0] * len(START))
