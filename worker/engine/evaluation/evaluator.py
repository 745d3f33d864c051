"""The course of an evaluation: images are drawn on this thread, and judged on others as they come."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from service.contracts.evaluations import IMAGES, DrawnImage, EvaluationJob
from service.contracts.events import Finished
from worker.engine.evaluation.judge_pool import Asking
from worker.engine.evaluation.judges import Judge
from worker.engine.evaluation.progress import Record
from worker.engine.evaluation.sampling import Drawer, Place
from worker.engine.training.event_log import Cancelled, ControlFile, EventWriter, Paused

_LOOK_SECONDS = 0.2
"""How often the control file is looked at when all is drawn."""


@dataclass(frozen=True)
class Left:
    """What is left to do of a job."""

    drawn: dict[Place, DrawnImage]
    """Images that lie there, and are yet to be judged."""
    asked: dict[Place, int]
    """Images that nobody has drawn, or whose files are gone: how often a judge was asked about each."""

    @classmethod
    def of(cls, job: EvaluationJob, directory: Path) -> "Left":
        """In an attempt's directory."""
        known = {(name.index, name.image_index): name for name in job.drawn}
        drawn = {place: name for place, name in known.items() if (directory / IMAGES / name.file).exists()}
        done = {(name.index, name.image_index) for name in job.done}
        places = [
            (prompt.index, image_index)
            for prompt in job.benchmark.prompts
            for image_index in range(job.spec.num_images)
        ]
        missing = [place for place in places if place not in drawn and place not in done]
        return cls(drawn, {place: known[place].asked if place in known else 0 for place in missing})


class Evaluator:
    """Sees to it that every image of a job is drawn and judged. What earlier attempts did stands.

    Images are kept in files: in memory there are those of one batch, and those that a judge is asked about.
    """

    def __init__(
        self, job: EvaluationJob, left: Left, drawer: Drawer | None, judge: Judge | None, events: EventWriter
    ) -> None:
        """There must be a drawer where something is left to draw."""
        self._left, self._drawer = left, drawer
        self._control = ControlFile(events.directory)
        self._record = Record(job, events)
        self._asking = Asking(job, judge, events.directory, self._record) if judge else None

    @property
    def draws(self) -> bool:
        """Whether something is left to draw."""
        return self._drawer is not None

    def run(self) -> Finished:
        """Go on to the end, or until asked to stop. Says which; nothing else is said afterwards.

        Raises JudgeFailed where the judge is away for too long, and what loading and drawing raise.
        """
        outcome: Literal["succeeded", "paused", "cancelled"] = "succeeded"
        try:
            self._draw_and_ask()
        except Cancelled:
            outcome = "cancelled"
        except Paused:
            outcome = "paused"
        finally:
            if self._asking:
                self._asking.stop()
            self._record.close()
        return Finished(outcome=outcome, step=self._record.done)

    def _draw_and_ask(self) -> None:
        if self._asking:
            self._asking.start()
        for image in self._left.drawn.values():
            self._ask(image)
        if self._drawer:
            for drawn in self._drawer.draw(self._left.asked.keys(), self._check):
                self._record.say(drawn)
                asked = self._left.asked[drawn.index, drawn.image_index]
                self._ask(DrawnImage(index=drawn.index, image_index=drawn.image_index, asked=asked))
        if self._asking:
            self._asking.no_more()
            while not self._asking.wait(_LOOK_SECONDS):
                self._check()
        self._check()

    def _ask(self, image: DrawnImage) -> None:
        """Have an image judged, where anybody judges."""
        if self._asking:
            self._asking.add(image)
        else:
            self._record.image_finished()

    def _check(self) -> None:
        """Raise where the supervisor or the judge ends the evaluation."""
        if self._asking:
            self._asking.check()
        self._control.check()
        self._record.alive()
