"""Event and progress reporting for an evaluation, from several threads."""

import threading
import time

from pydantic import BaseModel

from service.contracts.evaluations import EvaluationJob
from service.contracts.events import Progress
from worker.engine.training.event_log import EventWriter

_MIN_SECONDS = 1.0
"""Minimum interval between progress events."""
_HEARTBEAT_SECONDS = 15.0
"""Interval between progress events while no images are finished."""


class EvaluationProgress:
    """Writes the events of one attempt. done: the number of finished images."""

    def __init__(self, job: EvaluationJob, events: EventWriter) -> None:
        self.done = len(job.done)
        self._initial, self._total = self.done, job.total_images
        self._events = events
        self._lock = threading.RLock()
        self._closed = False
        self._started_at = self._reported_at = time.monotonic()

    def write(self, event: BaseModel) -> None:
        """Write an event, or discard it if this object is closed."""
        with self._lock:
            if not self._closed:
                self._events.write(event)

    def image_finished(self) -> None:
        """Count another image as finished."""
        with self._lock:
            self.done += 1
            self._report(0.0 if self.done == self._total else _MIN_SECONDS)

    def heartbeat(self) -> None:
        """Report progress if the last report is at least `_HEARTBEAT_SECONDS` old."""
        with self._lock:
            self._report(_HEARTBEAT_SECONDS)

    def close(self) -> None:
        """Discard all later events. The next attempt repeats the corresponding requests."""
        with self._lock:
            self._closed = True

    def _report(self, min_seconds: float) -> None:
        now = time.monotonic()
        if now - self._reported_at < min_seconds:
            return
        self._reported_at = now
        finished = self.done - self._initial
        seconds = (now - self._started_at) / finished if finished else None
        eta = None if seconds is None else seconds * (self._total - self.done)
        self.write(
            Progress(step=self.done, max_steps=self._total, phase="evaluation", eta_seconds=eta, step_seconds=seconds)
        )
