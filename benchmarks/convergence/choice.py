"""Each method's best rate: by the smoothed held-out sum of rewards at the end of its tuning run."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.convergence.analysis import smooth
from benchmarks.convergence.runs import curve, outcome, planned


@dataclass(frozen=True)
class Tried:
    """A rate of the grid and where it led."""

    method: str
    rate: float
    seed: int
    start: float
    """Held-out sum of rewards of the base."""
    end: float
    """Smoothed, at the end; minus infinity where the run broke."""
    best: float
    rewards: dict[str, float]
    """At the last evaluation."""
    steps: int


def grid(out: Path) -> list[Tried]:
    """What `tune` tried. ValueError while a run has no result."""
    tried = []
    for run in planned(out, "tune"):
        directory = out / "tune" / run.name
        if (ended := outcome(directory)) is None:
            raise ValueError(f"{directory} has no result yet; finish `tune` first")
        points = curve(directory)
        smoothed = smooth([sum(point.rewards.values()) for point in points])
        tried.append(
            Tried(
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
    return tried


def best_rates(settings: dict[str, Any], out: Path) -> dict[str, float]:
    """By method, the rate of the greatest mean end over the tuning seeds."""
    tried = grid(out)

    def end(method: str, rate: float) -> float:
        ends = [entry.end for entry in tried if (entry.method, entry.rate) == (method, rate)]
        return sum(ends) / len(ends)

    return {
        method: max(settings["tune"]["rates"], key=lambda rate: end(method, rate)) for method in settings["methods"]
    }
