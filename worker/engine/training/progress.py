"""Progress of a run: completed steps, time per step, heartbeats, and stop requests from the supervisor."""

import time
from collections import deque
from statistics import median
from typing import Any

from service.contracts.events import Phase, Progress
from worker.engine.heartbeat import PROGRESS_SECONDS
from worker.engine.training.event_log import ControlFile, EventWriter

_TIMED_STEPS = 20
"""The estimate of the remaining time uses the median duration of this many recent steps."""


class ProgressReporter:
    """Counts, times and reports the steps. `check` raises an exception if the supervisor stops the run."""

    def __init__(self, events: EventWriter, max_steps: int) -> None:
        self.control = ControlFile(events.directory)
        self.step = 0
        """The number of completed training steps."""
        self.elapsed_seconds = 0.0
        """Total duration of the completed training steps in seconds, over all attempts."""
        self.phase: Phase = "loading"
        self._events, self._max_steps = events, max_steps
        self._step_seconds: deque[float] = deque(maxlen=_TIMED_STEPS)
        self._started_at = time.perf_counter()
        self._reported_at = 0.0

    def start_step(self) -> None:
        """Start timing a training step."""
        self._started_at = time.perf_counter()

    def finish_step(self) -> None:
        """Count the step as completed and record its duration."""
        self.step += 1
        self._step_seconds.append(time.perf_counter() - self._started_at)
        self.elapsed_seconds += self._step_seconds[-1]

    def check(self) -> None:
        """Raise Cancelled or Paused if the supervisor has requested it; otherwise send a heartbeat if one is due."""
        self.control.check()
        self.heartbeat()

    def heartbeat(self) -> None:
        """Report the current phase again if the last report is at least `PROGRESS_SECONDS` old."""
        if time.monotonic() - self._reported_at >= PROGRESS_SECONDS:
            self.report(self.phase)

    def report(self, phase: Phase) -> None:
        """Enter `phase` and write a progress event."""
        self.phase, self._reported_at = phase, time.monotonic()
        seconds = median(self._step_seconds) if self._step_seconds else None
        eta = None if seconds is None else seconds * (self._max_steps - self.step)
        self._events.write(
            Progress(step=self.step, max_steps=self._max_steps, phase=phase, eta_seconds=eta, step_seconds=seconds)
        )

    def state_dict(self) -> dict[str, Any]:
        return {"step": self.step, "elapsed_seconds": self.elapsed_seconds}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.step, self.elapsed_seconds = state["step"], state["elapsed_seconds"]
