"""What evaluations found: answers, images, the official files, comparisons, galleries."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal

from service.api.evaluations.results_schemas import AnswerView, EvaluationComparison, EvaluationImageView
from service.client.transport import Id, Query, Transport

_BLOCK = 1 << 20


class Judgements:
    """The routes under `/evaluations/ID` that show what an evaluation found."""

    _transport: Transport

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
        """All answers that fit, by prompt and image, fetched page by page."""
        query: Query = {
            "dimension": list(dimension),
            "index": index,
            "met": None if met is None else str(met).lower(),
            "failure": failure,
            "tries": tries,
        }
        return self._transport.pages(AnswerView, f"/evaluations/{evaluation}/answers", query)

    def evaluation_images(self, evaluation: Id, index: int | None = None) -> Iterator[EvaluationImageView]:
        """All images of an evaluation, or of one prompt, fetched page by page; `client.fetch_image(url)` is the PNG."""
        return self._transport.pages(EvaluationImageView, f"/evaluations/{evaluation}/images", {"index": index})

    def export_evaluation(self, evaluation: Id, file: Path) -> None:
        """Write the official result file: `file` ends in `.csv`, or in `.json` for the counts by dimension.

        It has its name only once it is whole. Raises ApiError, ValueError for another ending.
        """
        forms = {".csv": "text/csv", ".json": "application/json"}
        if file.suffix not in forms:
            raise ValueError(f"{file} must end in {' or '.join(forms)}")
        path, part = f"/evaluations/{evaluation}/export", file.with_name(f".{file.name}.part")

        def once() -> None:
            accept = {"Accept": forms[file.suffix]}
            with self._transport.opened("GET", path, None, accept) as response, part.open("wb") as writing:
                for block in response.iter_bytes(_BLOCK):
                    writing.write(block)

        try:
            self._transport.patiently(once)
            part.replace(file)
        finally:
            part.unlink(missing_ok=True)

    def compare_evaluations(
        self, first: Id, second: Id, *, resamples: int | None = None, seed: int | None = None
    ) -> EvaluationComparison:
        """The second evaluation less the first, prompt by prompt, with paired intervals."""
        query: Query = {"resamples": resamples, "seed": seed}
        return self._transport.read(EvaluationComparison, "GET", f"/evaluations/{first}/comparison/{second}", query)

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
        """Images with what the judge found, those of other evaluations `beside` them: a PNG, or an HTML page."""
        query: Query = {
            "with": [str(one) for one in beside],
            "dimension": list(dimension),
            "index": [str(one) for one in index],
            "count": count,
            "seed": seed,
            "images": images,
        }
        accept = {"Accept": {"png": "image/png", "html": "text/html"}[form]}
        return self._transport.send("GET", f"/evaluations/{evaluation}/gallery", query, headers=accept).content
