"""Steps of the denoising chain: the ODE step, the Gaussian SDE step, and its log-probability.

Notation: x_σ = (1−σ)·x_0 + σ·ε, the model predicts v ≈ ε − x_0, and Δ_i = σ_{i+1} − σ_i < 0. Latents may have any
shape. σ and Δ may be numbers or, in `ode_step` and `clean_estimate`, tensors that broadcast against the latents.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor


def ode_step(x: Tensor, velocity: Tensor, delta: Tensor | float) -> Tensor:
    """Take the deterministic step x + Δ·v."""
    return x + delta * velocity


def clean_estimate(x: Tensor, velocity: Tensor, sigma: Tensor | float) -> Tensor:
    """Return the model's estimate of the clean latents, x̂_0 = x − σ·v."""
    return x - sigma * velocity


class Transition(ABC):
    """An SDE step x' = μ + std·ε and its log-probability."""

    sigma: float
    """The noise level at the start of the step."""

    @classmethod
    @abstractmethod
    def at(cls, sigmas: Sequence[float], step: int, eta: float) -> Self:
        """Return the transition for step `step` on the nodes `sigmas`, which are T+1 values from 1 to 0."""

    @property
    @abstractmethod
    def std(self) -> float:
        """The standard deviation of the step's noise."""

    @abstractmethod
    def mean(self, x: Tensor, velocity: Tensor) -> Tensor:
        """Return μ for the step from `x` with `velocity`, which must have the same shape."""

    def log_prob(self, value: Tensor, mean: Tensor) -> Tensor:
        """Return log π [...] of `value` [..., tokens, channels], given μ. No gradient flows through `value`."""
        return gaussian_log_prob(value, mean, self.std)


@dataclass(frozen=True)
class FlowTransition(Transition):
    """An SDE step with std = s·√(−Δ), where s = η·√(σ/(1−σ)).

    μ = x·(1 + s²/(2σ)·Δ) + v·(1 + s²·(1−σ)/(2σ))·Δ. At σ = 1, the factor 1−σ in s is replaced with 1−σ_1.
    Source: the SDE of Flow-GRPO, as used in Granular-GRPO.
    """

    sigma: float
    delta: float
    scale: float

    @classmethod
    def at(cls, sigmas: Sequence[float], step: int, eta: float) -> Self:
        sigma = sigmas[step]
        below = sigmas[1] if sigma == 1.0 else sigma
        return cls(sigma, sigmas[step + 1] - sigma, eta * math.sqrt(sigma / (1.0 - below)))

    @property
    def std(self) -> float:
        return self.scale * math.sqrt(-self.delta)

    def mean(self, x: Tensor, velocity: Tensor) -> Tensor:
        drift = self.scale**2 / (2.0 * self.sigma)
        return x * (1.0 + drift * self.delta) + velocity * ((1.0 + drift * (1.0 - self.sigma)) * self.delta)


@dataclass(frozen=True)
class DanceTransition(FlowTransition):
    """The SDE of FlowTransition with s = η at every step.

    Source: DanceGRPO, which expresses the drift in terms of the score.
    """

    @classmethod
    def at(cls, sigmas: Sequence[float], step: int, eta: float) -> Self:
        return cls(sigmas[step], sigmas[step + 1] - sigmas[step], eta)


@dataclass(frozen=True)
class CpsTransition(Transition):
    """A step that preserves the flow's coefficients, with std = σ'·sin(ηπ/2), where σ' is the next noise level.

    μ = x̂_0·(1−σ') + (x + (1−σ)·v)·√(σ'² − std²). Source: the `cps` sampling in later versions of Flow-GRPO.
    """

    sigma: float
    following: float
    eta: float

    @classmethod
    def at(cls, sigmas: Sequence[float], step: int, eta: float) -> Self:
        return cls(sigmas[step], sigmas[step + 1], eta)

    @property
    def std(self) -> float:
        return self.following * math.sin(self.eta * math.pi / 2.0)

    def mean(self, x: Tensor, velocity: Tensor) -> Tensor:
        noise = x + (1.0 - self.sigma) * velocity
        kept = math.sqrt(max(0.0, self.following**2 - self.std**2))
        return clean_estimate(x, velocity, self.sigma) * (1.0 - self.following) + noise * kept

    def log_prob(self, value: Tensor, mean: Tensor) -> Tensor:
        """Return −mean((x' − μ)²), without the variance, as published. The clip range 1e-5 refers to this form."""
        return -(value.detach() - mean).square().mean(dim=(-2, -1))


def gaussian_log_prob(value: Tensor, mean: Tensor, std: float) -> Tensor:
    """Return the log-density of `value` under N(mean, std²), **averaged** over the last two dimensions.

    `value` and `mean` broadcast to [..., tokens, channels], and the result has shape [...]. No gradient flows through
    `value`. Due to the average, the ratio is the D-th root of the true ratio (D is tokens·channels), so clip ranges are
    about 1e-4. Raises ValueError if `std` is not positive. Sources: DanceGRPO, Flow-GRPO.
    """
    if std <= 0.0:
        raise ValueError(f"a transition of standard deviation {std} has no log-probability; eta must be positive")
    square = (value.detach() - mean).square() / (2.0 * std**2)
    constant = math.log(std) + 0.5 * math.log(2.0 * math.pi)
    return -(square.mean(dim=(-2, -1)) + constant)


def probability_ratio(log_prob: Tensor, old_log_prob: Tensor) -> Tensor:
    """Return the ratio r = exp(log π_θ − log π_old), elementwise."""
    return torch.exp(log_prob - old_log_prob)
