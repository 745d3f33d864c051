"""Tracking of the best held-out values, to decide which policy to save and when to stop early."""

import math
from dataclasses import asdict, dataclass
from typing import Any

from service.contracts.runs import RunSpec


@dataclass
class BestValue:
    """The highest value of a held-out reward, and the number of evaluations since it was reached."""

    value: float | None = None
    since: int = 0

    def update(self, value: float, min_delta: float = 0.0) -> bool:
        """Record `value` and return whether it is the new best.

        A new best is finite and exceeds the previous best, if there is one, by more than `min_delta`.
        """
        better = math.isfinite(value) and (self.value is None or value > self.value + min_delta)
        if better:
            self.value, self.since = value, 0
        else:
            self.since += 1
        return better


class EarlyStopping:
    """Tracks the held-out rewards selected by `checkpoints.best` and `heldout.early_stop`."""

    def __init__(self, spec: RunSpec) -> None:
        self._reward, self._stop = spec.checkpoints.best, spec.heldout.early_stop
        self._best, self._monitored = BestValue(), BestValue()
        self._best_step: int | None = None

    def update(self, step: int, metrics: dict[str, float]) -> None:
        """Compare the held-out metrics of training step `step` with the best so far."""
        if self._reward is not None and self._best.update(metrics[f"heldout/{self._reward}"]):
            self._best_step = step
        if self._stop is not None:
            self._monitored.update(metrics[f"heldout/{self._stop.reward}"], self._stop.min_delta)

    def best_value(self, step: int) -> float | None:
        """Return the best value of `checkpoints.best` if the policy after `step` reached it, otherwise None."""
        return self._best.value if self._best_step == step else None

    @property
    def should_stop_early(self) -> bool:
        """Whether the last `patience` evaluations brought no new best value."""
        return self._stop is not None and self._monitored.since >= self._stop.patience

    def state_dict(self) -> dict[str, Any]:
        return {"best": asdict(self._best), "monitored": asdict(self._monitored)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._best, self._monitored = BestValue(**state["best"]), BestValue(**state["monitored"])
