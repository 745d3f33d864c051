"""What is run: the methods, their specs, and how many steps of each fit into an equal budget of calm seconds."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from service.contracts.algorithms import MixGRPO
from service.contracts.presets import merge
from service.contracts.runs import RunSpec

SETTINGS = Path(__file__).parent / "settings.yaml"
BASE = "base"
"""The policy that no method has trained."""

Spec = dict[str, Any]


@dataclass(frozen=True)
class Run:
    """One engine run: a method at a rate with a seed."""

    method: str
    rate: float
    seed: int
    spec: Spec

    @property
    def name(self) -> str:
        return f"{self.method}-{self.rate:g}-seed{self.seed}"


@dataclass(frozen=True)
class StepSeconds:
    """Calm seconds of a training step; one for each place of MixGRPO's window, in the order in which it moves."""

    by_place: tuple[float, ...]
    every: int = 1

    def of_first(self, steps: int) -> float:
        """Calm seconds of the first `steps` steps."""
        return sum(self.by_place[step // self.every % len(self.by_place)] for step in range(steps))

    def steps_within(self, seconds: float) -> int:
        """How many steps come nearest to `seconds`, at least one."""
        steps = 1
        while abs(self.of_first(steps + 1) - seconds) <= abs(self.of_first(steps) - seconds):
            steps += 1
        return steps


def load_settings(path: Path = SETTINGS) -> dict[str, Any]:
    """The comparison's settings, YAML."""
    settings: dict[str, Any] = yaml.safe_load(path.read_text(encoding="utf-8"))
    return settings


def window_places(spec: Spec) -> int:
    """How many places a progressive window visits; 1 for methods without one."""
    resolved = RunSpec.model_validate(spec)
    algorithm = resolved.algorithm
    return len(algorithm.window.places(resolved.sampling.steps)) if isinstance(algorithm, MixGRPO) else 1


def method_spec(settings: dict[str, Any], method: str) -> Spec:
    """The spec that all runs of a method share."""
    return merge(settings["base"], {"algorithm": settings["methods"][method]["algorithm"]})


def step_seconds(settings: dict[str, Any], method: str, by_place: list[float]) -> StepSeconds:
    """What `calibrate` measured, with the method's own window."""
    algorithm = settings["methods"][method]["algorithm"]
    return StepSeconds(tuple(by_place), algorithm.get("window", {}).get("every", 1))


def calibration_run(settings: dict[str, Any], method: str) -> Run:
    """A few steps without evaluations; a window moves with every step, so that each place is seen `rounds` times."""
    spec = method_spec(settings, method)
    places, rounds = window_places(spec), settings["calibrate"]["rounds"]
    if places > 1:
        spec = merge(spec, {"algorithm": {"window": {"every": 1}}})
    # One step more: the first pays for warming up.
    changes = {"training": {"max_steps": 1 + places * max(2, rounds // places)}, "heldout": {"every": 0}}
    return make_run(method, merge(spec, changes), 1e-4, 0)


def planned_runs(
    settings: dict[str, Any], phase: str, seconds: dict[str, StepSeconds], rates: dict[str, list[float]]
) -> list[Run]:
    """The runs of phase `tune` or `run`: seed by seed, so that what is finished early is balanced."""
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
    """`spec` at a rate and with a seed, for noises and for the order of prompts."""
    return Run(
        method, rate, seed, merge(spec, {"training": {"learning_rate": rate, "seed": seed, "sampler_seed": seed}})
    )


def rhythm(seconds: StepSeconds, budget: float, points: int) -> tuple[int, int]:
    """Steps within a budget of calm seconds, and steps between about `points` evenly spaced evaluations."""
    steps = seconds.steps_within(budget)
    return steps, max(1, round(steps / points))
