"""The SDE steps compared with transcriptions of their formulas, and their limits."""

import math
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from service.contracts.schedule import sigma_nodes
from tests.worker.engine.grpo import transcription
from worker.engine.grpo.transitions import (
    CpsTransition,
    DanceTransition,
    FlowTransition,
    Transition,
    clean_estimate,
    gaussian_log_prob,
    ode_step,
    probability_ratio,
)

TRANSITIONS: dict[str, type[Transition]] = {"flow": FlowTransition, "dance": DanceTransition, "cps": CpsTransition}
every_transition = pytest.mark.parametrize("name", TRANSITIONS)
etas = st.floats(0.05, 1.0)  # up to 1, the maximum for cps


@st.composite
def places(draw: st.DrawFn) -> tuple[tuple[float, ...], int]:
    """The nodes of a schedule, and a step that may be stochastic."""
    steps = draw(st.integers(2, 40))
    return sigma_nodes(steps, draw(st.floats(0.1, 8.0))), draw(st.integers(0, steps - 2))


def draws(count: int, *shape: int) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(shape, generator=generator, dtype=torch.float64) for _ in range(count)]


@every_transition
@given(place=places(), eta=etas)
def test_mean_std_and_log_probability_are_the_published_formulas(name: str, place: Any, eta: float) -> None:
    nodes, i = place
    x, v, noise = draws(3, 3, 4)

    transition = TRANSITIONS[name].at(nodes, i, eta)
    mean = transition.mean(x, v)
    sample = mean + transition.std * noise
    log_prob = transition.log_prob(sample, mean + 0.01 * v)

    expected, std = transcription.STEPS[name](x.numpy(), v.numpy(), nodes, i, eta)
    assert mean.numpy() == pytest.approx(expected, rel=0, abs=1e-12)
    assert transition.std == pytest.approx(std, rel=1e-12)
    away = expected + 0.01 * v.numpy()
    likely = transcription.LOG_PROBS[name](expected + std * noise.numpy(), away, std)
    assert log_prob.item() == pytest.approx(likely, rel=1e-10, abs=1e-12)


@every_transition
@given(place=places())
def test_step_without_noise_equals_the_ode_step(name: str, place: Any) -> None:
    nodes, i = place
    x, v = draws(2, 3, 4)
    transition = TRANSITIONS[name].at(nodes, i, eta=0.0)
    assert transition.std == 0.0
    torch.testing.assert_close(transition.mean(x, v), ode_step(x, v, nodes[i + 1] - nodes[i]), rtol=0, atol=1e-12)


@every_transition
def test_sde_step_converges_to_the_ode_step(name: str) -> None:
    nodes = sigma_nodes(16, 3.0)
    x, v = draws(2, 3, 4)
    for i in range(15):
        step = ode_step(x, v, nodes[i + 1] - nodes[i])
        gaps = [(TRANSITIONS[name].at(nodes, i, eta).mean(x, v) - step).abs().max().item() for eta in (1e-2, 1e-3)]
        assert 0 < gaps[1] < gaps[0] / 50  # the difference decreases with η²


@given(place=places(), s=st.floats(0.05, 2.0))
def test_at_one_noise_level_both_drifts_agree(place: Any, s: float) -> None:
    nodes, i = place
    x, v = draws(2, 3, 4)
    below = nodes[1] if i == 0 else nodes[i]
    flow = FlowTransition.at(nodes, i, s / math.sqrt(nodes[i] / (1 - below)))
    dance = DanceTransition.at(nodes, i, s)
    assert flow.std == pytest.approx(dance.std, rel=1e-12)
    torch.testing.assert_close(flow.mean(x, v), dance.mean(x, v), rtol=1e-12, atol=1e-12)


@given(place=places(), eta=etas)
def test_cps_keeps_the_noise_level(place: Any, eta: float) -> None:
    nodes, i = place
    clean, noise = draws(2, 3, 4)
    transition = CpsTransition.at(nodes, i, eta)
    mean = transition.mean((1 - nodes[i]) * clean + nodes[i] * noise, noise - clean)
    kept = (mean - (1 - nodes[i + 1]) * clean) / noise
    torch.testing.assert_close(kept, kept[:1, :1].expand_as(kept), rtol=0, atol=1e-9)
    assert kept[0, 0].item() ** 2 + transition.std**2 == pytest.approx(nodes[i + 1] ** 2, abs=1e-9)


@pytest.mark.parametrize("std", [0.0, -1.0])
def test_step_without_noise_has_no_log_probability(std: float) -> None:
    x, mean = draws(2, 3, 4)
    with pytest.raises(ValueError, match="eta must be positive"):
        gaussian_log_prob(x, mean, std)


def test_log_probability_is_the_mean_of_the_gaussian_log_density() -> None:
    value, mean = draws(2, 5, 3, 4)
    density = torch.distributions.Normal(mean, 0.3).log_prob(value).mean(dim=(-2, -1))
    torch.testing.assert_close(gaussian_log_prob(value, mean, 0.3), density, rtol=0, atol=1e-12)


@every_transition
def test_gradient_of_the_log_probability_agrees_with_finite_differences(name: str) -> None:
    transition = TRANSITIONS[name].at(sigma_nodes(16, 3.0), 3, 0.7)
    x, noise, v = draws(3, 3, 4)
    sample = transition.mean(x, v) + transition.std * noise

    def log_prob(velocity: torch.Tensor) -> torch.Tensor:
        return transition.log_prob(sample, transition.mean(x, velocity))

    assert torch.autograd.gradcheck(log_prob, (v + 0.1).requires_grad_(True))


@every_transition
def test_sample_carries_no_gradient(name: str) -> None:
    value, mean = draws(2, 3, 4)
    value.requires_grad_(True)
    assert not TRANSITIONS[name].at(sigma_nodes(16, 3.0), 3, 0.7).log_prob(value, mean).requires_grad


def test_ratio_of_a_policy_to_itself_is_one() -> None:
    (log_prob,) = draws(1, 7)
    assert torch.equal(probability_ratio(log_prob, log_prob), torch.ones(7, dtype=torch.float64))


@given(st.floats(0.01, 0.99))
def test_true_velocity_recovers_the_clean_image(sigma: float) -> None:
    clean, noise = draws(2, 3, 4)
    x = (1 - sigma) * clean + sigma * noise
    torch.testing.assert_close(clean_estimate(x, noise - clean, sigma), clean, rtol=0, atol=1e-12)
