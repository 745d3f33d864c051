"""The final runs put side by side: curves on common axes, times to the target, gains with intervals, texture."""

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
"""The method whose best is everybody's target."""


@dataclass(frozen=True)
class Curve:
    """Held-out rewards of one run, on both axes."""

    seed: int
    seconds: Floats
    """Calm seconds of training steps."""
    nfe: Floats
    """Of the network, in rollouts."""
    rewards: dict[str, Floats]
    pairs: int
    """Behind each point."""
    engine_seconds: float
    """What the run itself took, disturbed by whatever else ran."""

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
    """Whether the rate is the one that tuning chose."""
    curves: tuple[Curve, ...]

    @property
    def seconds(self) -> Floats:
        return self.curves[0].seconds

    def stack(self, reward: str | None) -> Floats:
        """[seeds, points] of one reward; None: of their smoothed sum."""
        return np.stack([curve.smoothed if reward is None else curve.rewards[reward] for curve in self.curves])


def load_methods(settings: dict[str, Any], out: Path) -> list[Method]:
    """The final runs of the seeds that every method has finished. ValueError where there is none."""
    seconds, chosen = load_seconds(settings, out), best_rates(settings, out)
    done = [run for run in planned(out, "run") if outcome(out / "run" / run.name) == "succeeded"]
    seeds_of = {key: {run.seed for run in done if (run.method, run.rate) == key} for key in chosen.items()}
    seeds = set.intersection(*seeds_of.values())
    if not seeds:
        raise ValueError("no seed of which every method has succeeded; finish `run` first")
    methods = []
    for name, rate in dict.fromkeys((run.method, run.rate) for run in done):
        runs = [run for run in done if (run.method, run.rate) == (name, rate) and run.seed in seeds]
        if len(runs) < len(seeds):
            continue  # a rate beside the chosen one, not finished yet
        curves = tuple(load_curve(run, out / "run" / run.name, seconds[name]) for run in runs)
        label = settings["methods"][name]["label"]
        mark = "" if rate == chosen[name] else f" at {rate:g}"
        methods.append(Method(name, label + mark, rate, rate == chosen[name], curves))
    return methods


def load_curve(run: Run, directory: Path, seconds: StepSeconds) -> Curve:
    """What a run wrote down, on the common axes."""
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
    """When a curve reaches its target; None where it never does."""

    seed: int | None
    """None: of the mean over seeds."""
    target: float
    seconds: float | None
    nfe: float | None


def times_to_target(method: Method, target: Method) -> list[Reached]:
    """For each seed, to the best smoothed sum of the target method with the same seed; then the same of their means."""
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
    """Smoothed sums by method and seed at equal seconds and at equal nfe: the least that any method spent."""
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
    """Of the sum of rewards, unsmoothed: roughness, mean largest drop from the best so far, and the seeds' worst."""
    drops = [largest_drop(curve.total) for curve in method.curves]
    return float(np.mean([roughness(curve.total) for curve in method.curves])), float(np.mean(drops)), max(drops)
