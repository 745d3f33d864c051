"""Selection of the best learning rate of each method: the smoothed held-out sum of rewards at the end of tuning."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.convergence.analysis import smooth
from benchmarks.convergence.runs import curve, outcome, planned


@dataclass(frozen=True)
class TuningResult:
    """Result of one tuning run."""

    method: str
    rate: float
    seed: int
    start: float
    """Held-out sum of rewards of the base model."""
    end: float
    """Smoothed sum of rewards at the end; minus infinity if the run failed."""
    best: float
    rewards: dict[str, float]
    """Rewards at the last evaluation."""
    steps: int


def grid(out: Path) -> list[TuningResult]:
    """Results of `tune`. Raises ValueError if a run has no result."""
    results = []
    for run in planned(out, "tune"):
        directory = out / "tune" / run.name
        if (ended := outcome(directory)) is None:
            raise ValueError(f"{directory} has no result; finish `tune` first")
        points = curve(directory)
        smoothed = smooth([sum(point.rewards.values()) for point in points])
        results.append(
            TuningResult(
                method=run.method,
                rate=run.rate,
                seed=run.seed,
                start=float(smoothed[0]),
                end=float(smoothed[-1]) if ended == "succeeded" else -math.inf,
                best=float(smoothed.max()),
                rewards=points[-1].rewards,
                steps=points[-1].step,
            )
        )
    return results


def best_rates(settings: dict[str, Any], out: Path) -> dict[str, float]:
    """For each method, the rate with the highest mean end value over the tuning seeds."""
    results = grid(out)

    def end(method: str, rate: float) -> float:
        ends = [entry.end for entry in results if (entry.method, entry.rate) == (method, rate)]
        return sum(ends) / len(ends)

    return {
        method: max(settings["tune"]["rates"], key=lambda rate: end(method, rate)) for method in settings["methods"]
    }
