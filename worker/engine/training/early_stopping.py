"""The best held-out values so far: which policy to keep, and when nothing more is to be hoped for."""

import math
from dataclasses import dataclass


@dataclass
class Best:
    """The highest value of a held-out reward's curve, and how many evaluations came since."""

    value: float | None = None
    since: int = 0

    def see(self, value: float, min_delta: float = 0.0) -> bool:
        """Whether `value` exceeds the best by more than `min_delta`, and so becomes it. NaN never does."""
        better = math.isfinite(value) and (self.value is None or value > self.value + min_delta)
        if better:
            self.value, self.since = value, 0
        else:
            self.since += 1
        return better
