"""The papers' formulas in plain arithmetic, as a reference for the engine. The module shares no code with the engine.

Arrays are NumPy arrays, or torch tensors if a gradient is needed; only operators and `mean` are used. σ is the noise
level of x_σ = (1−σ)·x_0 + σ·ε, v the velocity ε − x_0, `nodes` are σ_0 = 1 … σ_T = 0.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

Array = Any
"""A NumPy array or a torch tensor."""
Velocity = Callable[[Array, float], Array]


def sigmas(steps: int, shift: float) -> list[float]:
    """σ_i = s·t/(1 + (s−1)·t) with t = 1 − i/T."""
    return [shift * (1 - i / steps) / (1 + (shift - 1) * (1 - i / steps)) for i in range(steps + 1)]


def flash_sigmas(steps: int, shift: float, start: int, share: float) -> list[float]:
    """MixGRPO-Flash: max(1, round(share·R)) equal intervals of time for the R steps from node `start`."""
    intervals = max(1, round(share * (steps - start)))
    times = [(steps - start) / steps * (intervals - j) / intervals for j in range(intervals + 1)]
    return [shift * t / (1 + (shift - 1) * t) for t in times]


def path(steps: int, sde_step: int, stride: int) -> list[int]:
    """G²RPO's evaluated nodes: i+1, then i+2, i+2+λ, … while the next node is at most T."""
    nodes, following = [sde_step + 1], sde_step + 2
    while following + stride <= steps:
        nodes.append(following)
        following += stride
    return nodes


def flow_step(x: Array, v: Array, nodes: Sequence[float], i: int, eta: float) -> tuple[Array, float]:
    """Flow-GRPO's SDE: (μ, std). Under the root, σ_1 replaces σ_0."""
    sigma, dt = nodes[i], nodes[i + 1] - nodes[i]
    s = eta * math.sqrt(sigma / (1 - (nodes[1] if i == 0 else sigma)))
    mean = x * (1 + s**2 / (2 * sigma) * dt) + v * (1 + s**2 * (1 - sigma) / (2 * sigma)) * dt
    return mean, s * math.sqrt(-dt)


def score_step(x: Array, v: Array, nodes: Sequence[float], i: int, s: float) -> tuple[Array, float]:
    """DanceGRPO's SDE with noise level s, the drift through the score −(x − (1−σ)·x̂_0)/σ²: (μ, std)."""
    sigma, dt = nodes[i], nodes[i + 1] - nodes[i]
    clean = x - sigma * v
    score = -(x - clean * (1 - sigma)) / sigma**2
    return x + dt * v - 0.5 * s**2 * score * dt, s * math.sqrt(-dt)


def cps_step(x: Array, v: Array, nodes: Sequence[float], i: int, eta: float) -> tuple[Array, float]:
    """Flow-GRPO's coefficients-preserving step: clean part, kept noise and new noise, whose squares add up to σ'²."""
    sigma, following = nodes[i], nodes[i + 1]
    clean, noise = x - sigma * v, x + (1 - sigma) * v
    angle = eta * math.pi / 2
    return (1 - following) * clean + following * math.cos(angle) * noise, following * math.sin(angle)


def gaussian_log_prob(value: Array, mean: Array, std: float) -> Any:
    """The Gaussian log-density, averaged over all elements."""
    return (-((value - mean) ** 2) / (2 * std**2) - math.log(std) - math.log(math.sqrt(2 * math.pi))).mean()


def cps_log_prob(value: Array, mean: Array, std: float) -> Any:
    """The log-probability as published for the cps step, without the variance."""
    return -((value - mean) ** 2).mean()


STEPS = {"flow": flow_step, "dance": score_step, "cps": cps_step}
LOG_PROBS = {"flow": gaussian_log_prob, "dance": gaussian_log_prob, "cps": cps_log_prob}


def denoise(v: Velocity, x: Array, noise_levels: Sequence[float]) -> Array:
    """Euler steps of the ODE between noise levels, and the clean estimate at the last level."""
    for sigma, following in zip(noise_levels, [*noise_levels[1:], 0.0], strict=True):
        x = x + (following - sigma) * v(x, sigma)
    return x


def dpm_solver(v: Velocity, x: Array, noise_levels: Sequence[float]) -> Array:
    """DPM-Solver++(2M), Algorithm 2 of its paper, in data prediction; `noise_levels` end at 0.

    At σ = 0, the step h is infinite and e^−h is 0, so that only the clean estimate remains.
    """
    lam = [math.log(1 - sigma) - math.log(sigma) for sigma in noise_levels[:-1]]
    clean = [x - noise_levels[0] * v(x, noise_levels[0])]
    for n in range(1, len(noise_levels) - 1):
        h = lam[n] - lam[n - 1]
        guess = clean[-1]
        if n >= 2:
            r = (lam[n - 1] - lam[n - 2]) / h
            guess = (1 + 1 / (2 * r)) * clean[-1] - 1 / (2 * r) * clean[-2]
        alpha = 1 - noise_levels[n]
        x = noise_levels[n] / noise_levels[n - 1] * x - alpha * (math.exp(-h) - 1) * guess
        clean.append(x - noise_levels[n] * v(x, noise_levels[n]))
    return clean[-1]


def progressive_starts(steps: int, size: int, stride: int, every: int, count: int) -> list[int]:
    """The first SDE step of MixGRPO's window in each of `count` training steps."""
    starts, start = [], 0
    for step in range(count):
        if step and step % every == 0:
            start += stride
            if start > steps - 1 - size:
                start = 0
        starts.append(start)
    return starts


def spread(values: Sequence[float]) -> tuple[float, float]:
    """Mean and unbiased standard deviation of the valid values; the latter is NaN for fewer than two values."""
    there = [value for value in values if math.isfinite(value)]
    mean = sum(there) / len(there) if there else math.nan
    if len(there) < 2:
        return mean, math.nan
    return mean, math.sqrt(sum((value - mean) ** 2 for value in there) / (len(there) - 1))


def advantages(
    rewards: np.ndarray, weights: Sequence[float], *, clip: float, eps: float, floor: float, options: dict[str, str]
) -> np.ndarray:
    """Â[prompt, place, sample] of rewards [reward, prompt, place, sample, granularity], NaN where one failed.

    options: scale sum or mean, aggregation advantage or reward, std group or batch.
    """
    _, prompts, places, group, strides = rewards.shape
    if options["aggregation"] == "reward":
        with np.errstate(invalid="ignore"):
            rewards, weights = sum(w * r for w, r in zip(weights, rewards, strict=True))[None], [1.0]
    total = np.zeros((prompts, places, group))
    for k, weight in enumerate(weights):
        for stride in range(strides):
            batch = spread(rewards[k, :, :, :, stride].flatten().tolist())[1]
            for p in range(prompts):
                for place in range(places):
                    values = rewards[k, p, place, :, stride].tolist()
                    mean, std = spread(values)
                    divisor = batch if options["std"] == "batch" else std
                    if math.isnan(std) or divisor < floor or divisor == 0:
                        continue
                    for g, value in enumerate(values):
                        if math.isfinite(value):
                            total[p, place, g] += weight * (value - mean) / (divisor + eps)
    if options["scale"] == "mean":
        total /= sum(abs(weight) for weight in weights) * strides
    return np.clip(total, -clip, clip)


def sample_loss(log_prob: Any, old_log_prob: Any, advantage: float, clip_range: float) -> Any:
    """PPO's clipped loss of one sample."""
    ratio = math.e ** (log_prob - old_log_prob)
    bounded = min(max(ratio, 1 - clip_range), 1 + clip_range)
    return max(-advantage * ratio, -advantage * bounded)


def divergence(mean: Array, base_mean: Array, std: float) -> Any:
    """KL(N(μ, std²) ‖ N(μ_ref, std²)), averaged over all elements."""
    return ((mean - base_mean) ** 2).mean() / (2 * std**2)
