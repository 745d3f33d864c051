"""A pool of threads that send images to a judge until each image has a readable answer."""

import logging
import queue
import threading
import time
from pathlib import Path

from service.contracts.evaluations import IMAGES, EvaluationJob, ImageAnswered, PendingImage
from worker.engine.evaluation.judges import Judge, JudgeClosed, JudgeFailed, JudgeResponse
from worker.engine.evaluation.progress import EvaluationProgress

logger = logging.getLogger(__name__)

STOP_SECONDS = 3.0
"""Maximum seconds to wait for pending responses when the evaluation ends early."""
MAX_UNANSWERED = 16
"""Number of images after which the judge is considered to have failed if none of them has received a response."""


class JudgePool:
    """Sends queued images to a judge from several threads.

    The queue is unbounded and holds only image names, so sampling continues while the judge is slow or unavailable.
    """

    def __init__(self, job: EvaluationJob, judge: Judge, directory: Path, progress: EvaluationProgress) -> None:
        self._job, self._judge, self._progress = job, judge, progress
        self._images = directory / IMAGES
        self._prompts = {prompt.index: prompt for prompt in job.benchmark.prompts}
        self._queue: queue.SimpleQueue[PendingImage | None] = queue.SimpleQueue()
        self._stopping = threading.Event()
        self._lock = threading.Lock()
        self._unanswered, self._answered = 0, len(job.done)
        self._error: Exception | None = None
        self._threads = [
            threading.Thread(target=self._run, name=f"judge-{number}", daemon=True)
            for number in range(judge.concurrency)
        ]

    def start(self) -> None:
        """Start the threads."""
        for thread in self._threads:
            thread.start()

    def add(self, image: PendingImage) -> None:
        """Queue an image, whose file must already exist."""
        self._queue.put(image)

    def close_queue(self) -> None:
        """Make the threads exit after processing the queued images."""
        for _ in self._threads:
            self._queue.put(None)

    def check(self) -> None:
        """Raise JudgeFailed or the unexpected exception that stopped the threads, if there is one."""
        if self._error is not None:
            raise self._error

    def wait(self, seconds: float) -> bool:
        """Wait up to `seconds` for the threads, and return whether all of them have ended."""
        deadline = time.monotonic() + seconds
        for thread in self._threads:
            thread.join(max(0.0, deadline - time.monotonic()))
        return not any(thread.is_alive() for thread in self._threads)

    def stop(self) -> None:
        """Stop sending requests and wait up to `STOP_SECONDS` for pending responses."""
        self._end()
        self.wait(STOP_SECONDS)

    def _end(self) -> None:
        self._stopping.set()
        self._judge.close()
        self.close_queue()

    def _run(self) -> None:
        try:
            while (image := self._queue.get()) is not None and not self._stopping.is_set():
                self._judge_image(image)
        except JudgeClosed as error:
            logger.info("%s", error)
        except Exception as error:  # `check` raises this exception
            self._error = self._error or error
            self._end()

    def _judge_image(self, image: PendingImage) -> None:
        """Send an image until its answer is readable, the request fails, or `tries` requests have been made."""
        png = (self._images / image.file).read_bytes()
        prompt = self._prompts[image.index]
        for number in range(image.requests + 1, image.requests + self._judge.entry.tries + 1):
            response = self._judge.ask(prompt, png)
            self._progress.write(
                ImageAnswered(
                    index=image.index,
                    image_index=image.image_index,
                    number=number,
                    text=response.text,
                    scores=response.verdict.scores,
                    failure=response.verdict.failure,
                    error=response.error,
                    seconds=response.seconds,
                )
            )
            self._count(response)
            if response.verdict.scores is not None or response.error:
                break
            if self._stopping.is_set():
                return
        self._progress.image_finished()

    def _count(self, response: JudgeResponse) -> None:
        with self._lock:
            self._answered += not response.error
            self._unanswered += bool(response.error)
            if not self._answered and self._unanswered >= min(MAX_UNANSWERED, self._job.total_images):
                raise JudgeFailed(
                    f"judge {self._judge.entry.name!r} returned no response for the first {self._unanswered} images; "
                    f"last error: {response.error}"
                )
