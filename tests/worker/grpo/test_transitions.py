"""The SDE step against a transcription of its formula, and its limits."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from service.contracts.schedule import sigma_nodes
from worker.grpo.transitions import (
    FlowTransition,
    clean_estimate,
    gaussian_log_prob,
    ode_step,
    probability_ratio,
)

schedules = st.tuples(st.integers(2, 40), st.floats(0.1, 8.0))
etas = st.floats(0.05, 1.5)


def draws(count: int, *shape: int) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(shape, generator=generator, dtype=torch.float64) for _ in range(count)]


@given(schedules, etas, st.data())
def test_mean_and_std_are_the_published_formula(schedule: tuple[int, float], eta: float, data: st.DataObject) -> None:
    steps, shift = schedule
    i = data.draw(st.integers(0, steps - 2))
    sigmas = sigma_nodes(steps, shift)
    x, v = draws(2, 3, 4)

    transition = FlowTransition.at(sigmas, i, eta)

    sigma, dt = sigmas[i], sigmas[i + 1] - sigmas[i]
    s = eta * math.sqrt(sigma / (1 - (sigmas[1] if i == 0 else sigma)))
    expected = x * (1 + s * s / (2 * sigma) * dt) + v * (1 + s * s * (1 - sigma) / (2 * sigma)) * dt
    torch.testing.assert_close(transition.mean(x, v), expected, rtol=0, atol=1e-12)
    assert transition.std == pytest.approx(s * math.sqrt(-dt), abs=1e-12)


@given(schedules, st.data())
def test_without_noise_it_is_the_ode_step(schedule: tuple[int, float], data: st.DataObject) -> None:
    steps, shift = schedule
    i = data.draw(st.integers(0, steps - 2))
    sigmas = sigma_nodes(steps, shift)
    x, v = draws(2, 3, 4)

    transition = FlowTransition.at(sigmas, i, eta=0.0)

    assert transition.std == 0.0
    torch.testing.assert_close(transition.mean(x, v), ode_step(x, v, sigmas[i + 1] - sigmas[i]), rtol=0, atol=1e-14)


def test_a_step_without_noise_has_no_log_probability() -> None:
    x, mean = draws(2, 3, 4)
    with pytest.raises(ValueError, match="eta must be positive"):
        gaussian_log_prob(x, mean, std=0.0)


def test_log_probability_is_the_mean_of_the_gaussian_log_density() -> None:
    value, mean = draws(2, 5, 3, 4)
    density = torch.distributions.Normal(mean, 0.3).log_prob(value).mean(dim=(-2, -1))
    torch.testing.assert_close(gaussian_log_prob(value, mean, 0.3), density, rtol=0, atol=1e-12)


def test_the_gradient_of_the_log_probability_agrees_with_finite_differences() -> None:
    sigmas = sigma_nodes(16, 3.0)
    transition = FlowTransition.at(sigmas, 3, 0.7)
    x, noise, v = draws(3, 3, 4)
    sample = transition.mean(x, v) + transition.std * noise

    def log_prob(velocity: torch.Tensor) -> torch.Tensor:
        return gaussian_log_prob(sample, transition.mean(x, velocity), transition.std)

    assert torch.autograd.gradcheck(log_prob, v.clone().requires_grad_(True))


def test_the_sample_carries_no_gradient() -> None:
    value, mean = draws(2, 3, 4)
    value.requires_grad_(True)
    assert not gaussian_log_prob(value, mean, 0.3).requires_grad


def test_the_ratio_of_a_policy_to_itself_is_one() -> None:
    (log_prob,) = draws(1, 7)
    assert torch.equal(probability_ratio(log_prob, log_prob), torch.ones(7, dtype=torch.float64))


@given(st.floats(0.01, 0.99))
def test_a_true_velocity_recovers_the_clean_picture(sigma: float) -> None:
    clean, noise = draws(2, 3, 4)
    x = (1 - sigma) * clean + sigma * noise
    torch.testing.assert_close(clean_estimate(x, noise - clean, sigma), clean, rtol=0, atol=1e-12)
