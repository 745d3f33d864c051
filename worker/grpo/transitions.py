"""Steps of the denoising chain: the ODE step, the Gaussian SDE step, and its log-probability.

Notation: x_σ = (1−σ)·x_0 + σ·ε, the model predicts v ≈ ε − x_0, Δ_i = σ_{i+1} − σ_i < 0. Shapes are free: σ and std
are numbers, or tensors that broadcast against the latents.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


def ode_step(x: Tensor, velocity: Tensor, delta: Tensor | float) -> Tensor:
    """The deterministic step x + Δ·v."""
    return x + delta * velocity


def clean_estimate(x: Tensor, velocity: Tensor, sigma: Tensor | float) -> Tensor:
    """The picture that the model expects at the end: x̂_0 = x − σ·v."""
    return x - sigma * velocity


@dataclass(frozen=True)
class FlowTransition:
    """One SDE step: x' = μ + std·ε with std = s·√(−Δ), s = η·√(σ/(1−σ)).

    μ = x·(1 + s²/(2σ)·Δ) + v·(1 + s²·(1−σ)/(2σ))·Δ. At σ = 1 the 1−σ under the root alone takes σ_1 for σ.
    Source: Flow-GRPO's SDE as Granular-GRPO uses it.
    """

    sigma: float
    delta: float
    scale: float

    @classmethod
    def at(cls, sigmas: Sequence[float], step: int, eta: float) -> "FlowTransition":
        """The transition of step i on the nodes `sigmas` (T+1 values from 1 to 0)."""
        sigma = sigmas[step]
        below = sigmas[1] if sigma == 1.0 else sigma
        return cls(sigma, sigmas[step + 1] - sigma, eta * math.sqrt(sigma / (1.0 - below)))

    @property
    def std(self) -> float:
        """Standard deviation of the step's noise."""
        return self.scale * math.sqrt(-self.delta)

    def mean(self, x: Tensor, velocity: Tensor) -> Tensor:
        """μ of the step from `x` with `velocity`; both of one shape."""
        drift = self.scale**2 / (2.0 * self.sigma)
        return x * (1.0 + drift * self.delta) + velocity * ((1.0 + drift * (1.0 - self.sigma)) * self.delta)


def gaussian_log_prob(value: Tensor, mean: Tensor, std: float) -> Tensor:
    """Log-density of `value` under N(mean, std²), **averaged** over the last two dimensions (tokens, channels).

    `value` and `mean` broadcast to [..., tokens, channels]; the result is [...]. `value` carries no gradient. An
    average makes the ratio the D-th root of the true one, hence clip ranges about 1e-4. Source: DanceGRPO, Flow-GRPO.
    """
    if std <= 0.0:
        raise ValueError(f"a transition of standard deviation {std} has no log-probability; eta must be positive")
    square = (value.detach() - mean).square() / (2.0 * std**2)
    constant = math.log(std) + 0.5 * math.log(2.0 * math.pi)
    return -(square.mean(dim=(-2, -1)) + constant)


def probability_ratio(log_prob: Tensor, old_log_prob: Tensor) -> Tensor:
    """r = exp(log π_θ − log π_old), elementwise."""
    return torch.exp(log_prob - old_log_prob)
