"""Planned runs: the methods, their specs, and their numbers of steps for an equal budget of calm seconds."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from service.contracts.algorithms import MixGRPO
from service.contracts.presets import merge
from service.contracts.runs import RunSpec

SETTINGS = Path(__file__).parent / "settings.yaml"
BASE = "base"
"""Name of the untrained policy."""

Spec = dict[str, Any]


@dataclass(frozen=True)
class Run:
    """One engine run of a method with a learning rate and a seed."""

    method: str
    rate: float
    seed: int
    spec: Spec

    @property
    def name(self) -> str:
        return f"{self.method}-{self.rate:g}-seed{self.seed}"


@dataclass(frozen=True)
class StepSeconds:
    """Calm seconds of a training step, for each position of MixGRPO's window in the order of its movement."""

    by_place: tuple[float, ...]
    every: int = 1

    def of_first(self, steps: int) -> float:
        """Calm seconds of the first `steps` steps."""
        return sum(self.by_place[step // self.every % len(self.by_place)] for step in range(steps))

    def steps_within(self, seconds: float) -> int:
        """Number of steps whose duration is nearest to `seconds`, at least one."""
        steps = 1
        while abs(self.of_first(steps + 1) - seconds) <= abs(self.of_first(steps) - seconds):
            steps += 1
        return steps


def load_settings(path: Path = SETTINGS) -> dict[str, Any]:
    """Load the settings from YAML."""
    settings: dict[str, Any] = yaml.safe_load(path.read_text(encoding="utf-8"))
    return settings


def window_places(spec: Spec) -> int:
    """Number of positions of a progressive window; 1 for methods without a window."""
    resolved = RunSpec.model_validate(spec)
    algorithm = resolved.algorithm
    return len(algorithm.window.places(resolved.sampling.steps)) if isinstance(algorithm, MixGRPO) else 1


def method_spec(settings: dict[str, Any], method: str) -> Spec:
    """Shared spec of all runs of a method."""
    return merge(settings["base"], {"algorithm": settings["methods"][method]["algorithm"]})


def step_seconds(settings: dict[str, Any], method: str, by_place: list[float]) -> StepSeconds:
    """Measurements of `calibrate`, with the window interval of the method."""
    algorithm = settings["methods"][method]["algorithm"]
    return StepSeconds(tuple(by_place), algorithm.get("window", {}).get("every", 1))


def calibration_run(settings: dict[str, Any], method: str) -> Run:
    """A few steps without evaluations. A window moves at every step, so that each position is measured."""
    spec = method_spec(settings, method)
    places, rounds = window_places(spec), settings["calibrate"]["rounds"]
    if places > 1:
        spec = merge(spec, {"algorithm": {"window": {"every": 1}}})
    # One additional step: the first step includes warm-up.
    changes = {"training": {"max_steps": 1 + places * max(2, rounds // places)}, "heldout": {"every": 0}}
    return make_run(method, merge(spec, changes), 1e-4, 0)


def planned_runs(
    settings: dict[str, Any], phase: str, seconds: dict[str, StepSeconds], rates: dict[str, list[float]]
) -> list[Run]:
    """The runs of phase `tune` or `run`, ordered by seed, so that intermediate results are balanced."""
    plan = settings[phase]
    runs = []
    for seed in plan["seeds"]:
        for method in settings["methods"]:
            steps, every = rhythm(seconds[method], plan["seconds"], plan["points"])
            changes = {
                "training": {"max_steps": steps},
                "heldout": {"every": every},
                "checkpoints": {"every": every, "keep": 1},
            }
            spec = merge(method_spec(settings, method), changes)
            runs += [make_run(method, spec, rate, seed) for rate in rates[method]]
    return runs


def make_run(method: str, spec: Spec, rate: float, seed: int) -> Run:
    """Create a run with a learning rate and a seed; the seed determines noises and the order of prompts."""
    return Run(
        method, rate, seed, merge(spec, {"training": {"learning_rate": rate, "seed": seed, "sampler_seed": seed}})
    )


def rhythm(seconds: StepSeconds, budget: float, points: int) -> tuple[int, int]:
    """Number of steps within a budget of calm seconds, and the interval of about `points` evaluations."""
    steps = seconds.steps_within(budget)
    return steps, max(1, round(steps / points))
