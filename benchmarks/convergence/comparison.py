"""Comparison of the final runs: curves on common axes, times to the target, values at equal cost, stability."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.convergence.analysis import Floats, largest_drop, roughness, smooth, time_to, value_at
from benchmarks.convergence.calibration import load_seconds
from benchmarks.convergence.choice import best_rates
from benchmarks.convergence.plan import Run, StepSeconds
from benchmarks.convergence.runs import curve, outcome, planned
from service.contracts.runs import RunSpec

TARGET = "dance_grpo"
"""Method whose best value is the target of all methods."""


@dataclass(frozen=True)
class Curve:
    """Held-out rewards of one run, on both axes."""

    seed: int
    seconds: Floats
    """Calm seconds of training steps."""
    nfe: Floats
    """Cumulative NFE of rollouts."""
    rewards: dict[str, Floats]
    pairs: int
    """Number of held-out pairs per point."""
    engine_seconds: float
    """Wall time of the run, including the effect of other load."""

    @property
    def total(self) -> Floats:
        """The sum of rewards."""
        return np.sum(list(self.rewards.values()), axis=0)

    @property
    def smoothed(self) -> Floats:
        return smooth(self.total)


@dataclass(frozen=True)
class Method:
    """All seeds of a method."""

    name: str
    label: str
    rate: float
    chosen: bool
    """Whether tuning selected this rate."""
    curves: tuple[Curve, ...]

    @property
    def seconds(self) -> Floats:
        return self.curves[0].seconds

    def stack(self, reward: str | None) -> Floats:
        """Values [seeds, points] of one reward, or of the smoothed sum if `reward` is None."""
        return np.stack([curve.smoothed if reward is None else curve.rewards[reward] for curve in self.curves])


def load_methods(settings: dict[str, Any], out: Path) -> list[Method]:
    """Load the final runs of the seeds for which every method succeeded. Raises ValueError if there is no such seed."""
    seconds, chosen = load_seconds(settings, out), best_rates(settings, out)
    done = [run for run in planned(out, "run") if outcome(out / "run" / run.name) == "succeeded"]
    seeds_of = {key: {run.seed for run in done if (run.method, run.rate) == key} for key in chosen.items()}
    seeds = set.intersection(*seeds_of.values())
    if not seeds:
        raise ValueError("No seed has a successful run of every method; finish `run` first")
    methods = []
    for name, rate in dict.fromkeys((run.method, run.rate) for run in done):
        runs = [run for run in done if (run.method, run.rate) == (name, rate) and run.seed in seeds]
        if len(runs) < len(seeds):
            continue  # an additional rate without all seeds
        curves = tuple(load_curve(run, out / "run" / run.name, seconds[name]) for run in runs)
        label = settings["methods"][name]["label"]
        mark = "" if rate == chosen[name] else f" at {rate:g}"
        methods.append(Method(name, label + mark, rate, rate == chosen[name], curves))
    return methods


def load_curve(run: Run, directory: Path, seconds: StepSeconds) -> Curve:
    """Load the curve of a run on the common axes."""
    points = curve(directory)
    return Curve(
        seed=run.seed,
        seconds=np.array([seconds.of_first(point.step) for point in points]),
        nfe=np.array([point.nfe for point in points]),
        rewards={name: np.array([point.rewards[name] for point in points]) for name in points[0].rewards},
        pairs=RunSpec.model_validate(run.spec).heldout.pairs,
        engine_seconds=points[-1].seconds,
    )


def the(name: str, methods: Sequence[Method]) -> Method:
    """The method of this name at its chosen rate."""
    return next(method for method in methods if method.name == name and method.chosen)


@dataclass(frozen=True)
class Reached:
    """Time and NFE at which a curve reaches its target; None if it never does."""

    seed: int | None
    """None for the mean over seeds."""
    target: float
    seconds: float | None
    nfe: float | None


def times_to_target(method: Method, target: Method) -> list[Reached]:
    """Time to the best smoothed sum of the target method, for each seed and then for the means over seeds."""
    reached = [_reached(own.seed, own, own.smoothed, other.smoothed.max()) for own, other in _pairs(method, target)]
    mean = method.stack(None).mean(axis=0)
    return [*reached, _reached(None, method.curves[0], mean, target.stack(None).mean(axis=0).max())]


def _pairs(method: Method, target: Method) -> list[tuple[Curve, Curve]]:
    by_seed = {curve.seed: curve for curve in target.curves}
    return [(curve, by_seed[curve.seed]) for curve in method.curves]


def _reached(seed: int | None, axes: Curve, smoothed: Floats, target: float) -> Reached:
    seconds, nfe = (time_to(target, axis, smoothed) for axis in (axes.seconds, axes.nfe))
    return Reached(seed, float(target), seconds, nfe)


def at_equal(methods: Sequence[Method]) -> dict[str, dict[str, list[float | None]]]:
    """Smoothed sums by method and seed at equal seconds and at equal NFE: the minimum that any method used."""
    seconds = min(float(method.curves[0].seconds[-1]) for method in methods)
    nfe = min(float(method.curves[0].nfe[-1]) for method in methods)
    return {
        method.name: {
            "seconds": [value_at(seconds, curve.seconds, curve.smoothed) for curve in method.curves],
            "nfe": [value_at(nfe, curve.nfe, curve.smoothed) for curve in method.curves],
        }
        for method in methods
    }


def stability(method: Method) -> tuple[float, float, float]:
    """Roughness, mean largest drop and largest drop of any seed, for the unsmoothed sum of rewards."""
    drops = [largest_drop(curve.total) for curve in method.curves]
    return float(np.mean([roughness(curve.total) for curve in method.curves])), float(np.mean(drops)), max(drops)
