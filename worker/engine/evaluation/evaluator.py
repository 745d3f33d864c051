"""Execution of an evaluation: the calling thread samples images while other threads send them to the judge."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from service.contracts.evaluations import IMAGES, EvaluationJob, PendingImage
from service.contracts.events import Finished
from worker.engine.evaluation.image_sampler import ImageKey, ImageSampler
from worker.engine.evaluation.judge_pool import JudgePool
from worker.engine.evaluation.judges import Judge
from worker.engine.evaluation.progress import EvaluationProgress
from worker.engine.training.event_log import Cancelled, ControlFile, EventWriter, Paused

_CHECK_SECONDS = 0.2
"""Interval between checks for stop requests once all images have been sampled."""


@dataclass(frozen=True)
class RemainingWork:
    """The remaining work of an evaluation job.

    sampled: images that have a file and still need to be judged. missing: images that still need to be sampled or whose
    files are lost, with the number of previous requests to the judge.
    """

    sampled: dict[ImageKey, PendingImage]
    missing: dict[ImageKey, int]

    @classmethod
    def of(cls, job: EvaluationJob, directory: Path) -> "RemainingWork":
        """Determine the remaining work for an attempt in `directory`."""
        known = {(name.index, name.image_index): name for name in job.pending}
        sampled = {key: name for key, name in known.items() if (directory / IMAGES / name.file).exists()}
        done = {(name.index, name.image_index) for name in job.done}
        keys = [
            (prompt.index, image_index)
            for prompt in job.benchmark.prompts
            for image_index in range(job.spec.num_images)
        ]
        missing = [key for key in keys if key not in sampled and key not in done]
        return cls(sampled, {key: known[key].requests if key in known else 0 for key in missing})


class Evaluator:
    """Samples and judges the remaining images of a job.

    Only one batch of images and the images in pending requests to the judge are kept in memory. All others are files.
    sampler: required if images are missing. judge: None if the images are not judged.
    """

    def __init__(
        self,
        job: EvaluationJob,
        remaining: RemainingWork,
        sampler: ImageSampler | None,
        judge: Judge | None,
        events: EventWriter,
    ) -> None:
        self._remaining, self._sampler = remaining, sampler
        self._control = ControlFile(events.directory)
        self._progress = EvaluationProgress(job, events)
        self._judges = JudgePool(job, judge, events.directory, self._progress) if judge else None

    @property
    def samples_images(self) -> bool:
        """Whether this evaluation samples images."""
        return self._sampler is not None

    def run(self) -> Finished:
        """Run until all work is complete or the supervisor stops the evaluation, and return the last event.

        Raises JudgeFailed if the judge is misconfigured or unavailable for too long. Exceptions raised while loading or
        sampling propagate.
        """
        outcome: Literal["succeeded", "paused", "cancelled"] = "succeeded"
        try:
            self._sample_and_judge()
        except Cancelled:
            outcome = "cancelled"
        except Paused:
            outcome = "paused"
        finally:
            if self._judges:
                self._judges.stop()
            self._progress.close()
        return Finished(outcome=outcome, step=self._progress.done)

    def _sample_and_judge(self) -> None:
        if self._judges:
            self._judges.start()
        for image in self._remaining.sampled.values():
            self._judge(image)
        if self._sampler:
            for sampled in self._sampler.sample(self._remaining.missing.keys(), self._check):
                self._progress.write(sampled)
                requests = self._remaining.missing[sampled.index, sampled.image_index]
                self._judge(PendingImage(index=sampled.index, image_index=sampled.image_index, requests=requests))
        if self._judges:
            self._judges.close_queue()
            while not self._judges.wait(_CHECK_SECONDS):
                self._check()
        self._check()

    def _judge(self, image: PendingImage) -> None:
        """Queue an image for the judge. If there is no judge, count the image as finished."""
        if self._judges:
            self._judges.add(image)
        else:
            self._progress.image_finished()

    def _check(self) -> None:
        """Raise Cancelled, Paused or the judge's error if the evaluation must end; otherwise send any due heartbeat."""
        if self._judges:
            self._judges.check()
        self._control.check()
        self._progress.heartbeat()
