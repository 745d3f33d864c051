"""What is told of an evaluation, by several threads, and how far it is."""

import threading
import time

from pydantic import BaseModel

from service.contracts.evaluations import EvaluationJob
from service.contracts.events import Progress
from worker.engine.training.event_log import EventWriter

_TELL_SECONDS = 1.0
"""Between two reports of progress, at least."""
_ALIVE_SECONDS = 15.0
"""Between two of them at most, while something is drawn or a judge is waited for."""


class Record:
    """Writes the events of one attempt. `done` counts the images for which nothing is left to do."""

    def __init__(self, job: EvaluationJob, events: EventWriter) -> None:
        self.done = len(job.done)
        self._before, self._total = self.done, job.total_images
        self._events = events
        self._lock = threading.RLock()
        self._closed = False
        self._begun = self._told = time.monotonic()

    def say(self, event: BaseModel) -> None:
        """Write an event."""
        with self._lock:
            if not self._closed:
                self._events.write(event)

    def image_finished(self) -> None:
        """Nothing is left to do for one more image."""
        with self._lock:
            self.done += 1
            last = self.done == self._total
            self._progress(0.0 if last else _TELL_SECONDS)

    def alive(self) -> None:
        """Work goes on, even if no image has been finished for a while."""
        with self._lock:
            self._progress(_ALIVE_SECONDS)

    def close(self) -> None:
        """Write nothing more: answers that come later are lost, and will be asked for again."""
        with self._lock:
            self._closed = True

    def _progress(self, least_seconds: float) -> None:
        now = time.monotonic()
        if now - self._told < least_seconds:
            return
        self._told = now
        finished = self.done - self._before
        each = (now - self._begun) / finished if finished else None
        self.say(
            Progress(
                step=self.done,
                max_steps=self._total,
                phase="evaluation",
                eta_seconds=None if each is None else each * (self._total - self.done),
                step_seconds=each,
            )
        )
