"""Asking a judge about images, many at a time, until each has an answer that can be read."""

import logging
import queue
import threading
import time
from pathlib import Path

from service.contracts.evaluations import IMAGES, DrawnImage, EvaluationJob, ImageAnswered
from worker.engine.evaluation.judges import Abandoned, Judge, JudgeFailed, Said
from worker.engine.evaluation.progress import Record

logger = logging.getLogger(__name__)

LAST_ANSWERS_SECONDS = 3.0
"""How long answers that are on their way are waited for when the evaluation ends early."""
SURELY_MISUNDERSTOOD = 16
"""So many images without an answer, and none with one, are not the images' fault."""


class Asking:
    """Threads that ask. Images wait by name, and lie on disk until they are asked about.

    Names may wait in any number, so that drawing goes on while the judge is slow or away.
    """

    def __init__(self, job: EvaluationJob, judge: Judge, directory: Path, record: Record) -> None:
        self._job, self._judge, self._record = job, judge, record
        self._images = directory / IMAGES
        self._prompts = {prompt.index: prompt for prompt in job.benchmark.prompts}
        self._waiting: queue.SimpleQueue[DrawnImage | None] = queue.SimpleQueue()
        self._stopping = threading.Event()
        self._lock = threading.Lock()
        self._unanswered, self._answered = 0, len(job.done)
        self._error: Exception | None = None
        self._threads = [
            threading.Thread(target=self._run, name=f"asking-{number}", daemon=True)
            for number in range(judge.concurrency)
        ]

    def start(self) -> None:
        """Begin to ask."""
        for thread in self._threads:
            thread.start()

    def add(self, image: DrawnImage) -> None:
        """Have the judge asked about an image whose file is there."""
        self._waiting.put(image)

    def no_more(self) -> None:
        """All images were added."""
        for _ in self._threads:
            self._waiting.put(None)

    def check(self) -> None:
        """Raise what has ended the asking: JudgeFailed, or a fault of ours."""
        if self._error is not None:
            raise self._error

    def wait(self, seconds: float) -> bool:
        """Wait for the last answer; whether it is there, or asking has ended otherwise."""
        deadline = time.monotonic() + seconds
        for thread in self._threads:
            thread.join(max(0.0, deadline - time.monotonic()))
        return not any(thread.is_alive() for thread in self._threads)

    def stop(self) -> None:
        """Ask nothing more, and take what answers are on their way."""
        self._stopping.set()
        self._judge.close()
        self.no_more()
        self.wait(LAST_ANSWERS_SECONDS)

    def _run(self) -> None:
        try:
            while (image := self._waiting.get()) is not None and not self._stopping.is_set():
                self._see_through(image)
        except Abandoned as error:
            logger.info("%s", error)
        except Exception as error:  # raised where it is waited for
            self._error = self._error or error
            self._stopping.set()
            self._judge.close()
            self.no_more()

    def _see_through(self, image: DrawnImage) -> None:
        """Ask about an image until an answer can be read, or often enough."""
        png = (self._images / image.file).read_bytes()
        prompt = self._prompts[image.index]
        for number in range(image.asked + 1, image.asked + self._judge.entry.tries + 1):
            said = self._judge.ask(prompt, png)
            self._record.say(
                ImageAnswered(
                    index=image.index,
                    image_index=image.image_index,
                    number=number,
                    text=said.text,
                    scores=said.verdict.scores,
                    failure=said.verdict.failure,
                    error=said.error,
                    seconds=said.seconds,
                )
            )
            self._count(said)
            if said.verdict.scores is not None or said.error:
                break
            if self._stopping.is_set():
                return
        self._record.image_finished()

    def _count(self, said: Said) -> None:
        with self._lock:
            self._answered += not said.error
            self._unanswered += bool(said.error)
            if not self._answered and self._unanswered >= min(SURELY_MISUNDERSTOOD, self._job.total_images):
                raise JudgeFailed(
                    f"judge {self._judge.entry.name!r} answered about none of the first {self._unanswered} images; "
                    f"at last: {said.error}"
                )
