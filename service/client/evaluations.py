"""Client methods for evaluations of models on benchmarks."""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from service.api.evaluations.schemas import (
    AnswerView,
    EvaluationComparison,
    EvaluationImageView,
    EvaluationSummary,
    EvaluationView,
)
from service.api.events.schemas import LAST_ID, EvaluationEnd, EvaluationProgress
from service.api.logs.schemas import LogPart
from service.client.events import EvaluationEvent, Events, wait_for_end
from service.client.transport import Id


class Evaluations(Events):
    """The routes under `/evaluations`."""

    def evaluate(self, spec: Mapping[str, Any] | None = None) -> EvaluationView:
        """Start the evaluation of a model. `spec` is the body of `POST /evaluations`."""
        return self._read(EvaluationView, "POST", "/evaluations", json=dict(spec or {}))

    def evaluation(self, id: Id) -> EvaluationView:
        """Return the state of an evaluation, including its scores once it has ended."""
        return self._read(EvaluationView, "GET", f"/evaluations/{id}")

    def evaluations(
        self,
        *,
        status: Collection[str] = (),
        model: str | None = None,
        checkpoint: Id | None = None,
        benchmark: str | None = None,
    ) -> Iterator[EvaluationSummary]:
        """Iterate over all matching evaluations, newest first."""
        query = {"status": list(status), "model": model, "benchmark": benchmark, "checkpoint": checkpoint}
        return self._pages(EvaluationSummary, "/evaluations", query)

    def cancel_evaluation(self, id: Id) -> EvaluationView:
        """Cancel an evaluation. The images and results that it has produced so far are preserved."""
        return self._read(EvaluationView, "POST", f"/evaluations/{id}/cancel")

    def resume_evaluation(self, id: Id) -> EvaluationView:
        """Resume an evaluation that has ended: generate missing images and repeat failed judge requests."""
        return self._read(EvaluationView, "POST", f"/evaluations/{id}/resume")

    def delete_evaluation(self, id: Id) -> None:
        """Delete an evaluation that has ended, with its images and results."""
        self._send("DELETE", f"/evaluations/{id}")

    def evaluation_events(
        self, id: Id, after: int = 0, *, every: float = 1.0, timeout: float | None = None
    ) -> Iterator[EvaluationEvent]:
        """Iterate over the events of an evaluation, like `events` for a run. The last one is an EvaluationEnd."""
        return self._follow(f"/evaluations/{id}/events", (EvaluationProgress, EvaluationEnd), after, every, timeout)

    def wait_for_evaluation(
        self,
        id: Id,
        timeout: float | None = None,
        *,
        every: float = 1.0,
        seen: Callable[[EvaluationProgress], None] = lambda _: None,
    ) -> EvaluationView:
        """Wait until an evaluation has ended, and call `seen` with its progress at most once every `every` seconds.

        Raises TimeoutError after `timeout` seconds.
        """
        wait_for_end(id, self.evaluation_events(id, LAST_ID, every=every, timeout=timeout), (), seen, timeout)
        return self.evaluation(id)

    def evaluation_logs(self, id: Id, *, attempt: int | None = None, offset: int = 0) -> LogPart:
        """Return a part of the log of the evaluation's process. The next part starts at `next_offset`."""
        return self._read(LogPart, "GET", f"/evaluations/{id}/logs", {"attempt": attempt, "offset": offset})

    def answers(
        self,
        evaluation: Id,
        *,
        dimension: Sequence[str] = (),
        index: int | None = None,
        met: bool | None = None,
        failure: str | None = None,
        tries: Literal["newest", "all"] | None = None,
    ) -> Iterator[AnswerView]:
        """Iterate over all matching answers of the judge, ordered by prompt and image."""
        query = {"dimension": dimension, "index": index, "met": met, "failure": failure, "tries": tries}
        return self._pages(AnswerView, f"/evaluations/{evaluation}/answers", query)

    def evaluation_images(self, evaluation: Id, index: int | None = None) -> Iterator[EvaluationImageView]:
        """Iterate over the images of an evaluation, or of one prompt. `fetch_image(image.url)` returns the PNG."""
        return self._pages(EvaluationImageView, f"/evaluations/{evaluation}/images", {"index": index})

    def export_evaluation(self, evaluation: Id, file: Path) -> None:
        """Write a result file in the official format: a `.csv` with answers, or a `.json` with counts by dimension.

        The file is created only once it is complete. Raises ApiError, or ValueError if the suffix is not supported.
        """
        media_types = {".csv": "text/csv", ".json": "application/json"}
        if file.suffix not in media_types:
            raise ValueError(f"Unsupported file name {file}: must end in {' or '.join(media_types)}")
        self._save(f"/evaluations/{evaluation}/export", media_types[file.suffix], None, file)

    def compare_evaluations(
        self, first: Id, second: Id, *, resamples: int | None = None, seed: int | None = None
    ) -> EvaluationComparison:
        """Compute the second evaluation minus the first, with paired intervals over their common prompts."""
        query = {"resamples": resamples, "seed": seed}
        return self._read(EvaluationComparison, "GET", f"/evaluations/{first}/comparison/{second}", query)

    def gallery(
        self,
        evaluation: Id,
        form: Literal["png", "html"] = "png",
        *,
        beside: Sequence[Id] = (),
        dimension: Sequence[str] = (),
        index: Sequence[int] = (),
        count: int | None = None,
        seed: int | None = None,
        images: int | None = None,
    ) -> bytes:
        """Render images with the judge's results as PNG or HTML, optionally next to those of other evaluations."""
        query = {"with": beside, "dimension": dimension, "index": index, "count": count, "seed": seed, "images": images}
        media_type = {"png": "image/png", "html": "text/html"}[form]
        return self._content(f"/evaluations/{evaluation}/gallery", media_type, query)
