"""A gallery: images of the same prompts and seeds by one evaluation or several, with what the judge found."""

import random
import uuid
from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import select, tuple_
from sqlalchemy.orm import Session

from service.api.evaluations import image_grid, results
from service.api.evaluations.results_schemas import GalleryQuery
from service.contracts.benchmarks.data import BenchmarkPrompt
from service.db.evaluation_scores import is_newest
from service.db.models import Evaluation, EvaluationAnswer, EvaluationImage
from service.http.errors import NotAcceptable, NotFound, invalid
from service.jobs import views

_ALONE = 4
"""Images of each prompt, where nobody says how many, of an evaluation without others."""


@dataclass(frozen=True)
class Shown:
    """An image, and a score for each test point: None where nobody judged, or it could not be read."""

    key: str
    sha256: str
    seed: int
    scores: tuple[int | None, ...]


@dataclass(frozen=True)
class Line:
    """A prompt with an image per column; None where there is none."""

    prompt: BenchmarkPrompt
    images: tuple[Shown | None, ...]

    @property
    def seeds(self) -> str:
        """Of its images."""
        return ", ".join(map(str, sorted({one.seed for one in self.images if one is not None})))


@dataclass(frozen=True)
class Gallery:
    """What a gallery shows."""

    title: str
    columns: tuple[str, ...]
    lines: tuple[Line, ...]
    width: int
    height: int
    """Of an image, pixels: of the largest where they differ."""
    alone: bool
    """Whether all images are of one evaluation: then its columns are seeds."""


def gallery(session: Session, id: uuid.UUID, query: GalleryQuery, max_pixels: int) -> Gallery:
    """The asked images: an evaluation's own side by side, or those of several by prompt and number.

    Raises NotFound, Invalid, and NotAcceptable where they would have more pixels than allowed.
    """
    evaluations = _evaluations(session, id, query)
    first, alone = evaluations[0], len(evaluations) == 1
    prompts = _chosen(session, evaluations, query)
    most = min(int(one.spec["num_images"]) for one in evaluations)
    images = range(min(most, query.images or (_ALONE if alone else 1)))
    found = [_images(session, one.id, [prompt.index for prompt in prompts], len(images)) for one in evaluations]
    sizes = [results.spec_of(one) for one in evaluations]
    width, height = max(one.width or 0 for one in sizes), max(one.height or 0 for one in sizes)
    pixels = len(prompts) * len(images) * len(evaluations) * width * height * image_grid.enlargement(width, height) ** 2
    if pixels > max_pixels:
        raise NotAcceptable(f"these are {pixels} pixels, more than the {max_pixels} allowed; ask for fewer images")
    called = results.labels(session, [one.id for one in evaluations])
    benchmark = first.spec["benchmark"]
    if alone:
        columns = tuple(f"seed {first.spec['seed'] + image_index}" for image_index in images)
        lines = [
            Line(prompt, tuple(_shown(found[0], prompt, image_index) for image_index in images)) for prompt in prompts
        ]
    else:
        columns = tuple(called[one.id] for one in evaluations)
        lines = [
            Line(prompt, tuple(_shown(one, prompt, image_index) for one in found))
            for prompt in prompts
            for image_index in images
        ]
    title = f"{benchmark}: {called[first.id]}" if alone else f"{benchmark}: {len(columns)} evaluations side by side"
    return Gallery(title, columns, tuple(lines), width, height, alone)


_Found = dict[tuple[int, int], tuple[EvaluationImage, list[int] | None]]


def _evaluations(session: Session, id: uuid.UUID, query: GalleryQuery) -> list[Evaluation]:
    found = [views.find(session, Evaluation, id)]
    for place, other in enumerate(query.others):
        if other == id:
            raise invalid(["query", "with", place], f"evaluation {id} is shown anyhow; name others", "shown_anyhow")
        row = session.get(Evaluation, other)
        if row is None:
            raise invalid(["query", "with", place], f"there is no evaluation {other}", "unknown_name")
        results.same_benchmark(session, found[0], row, ["query", "with", place])
        found.append(row)
    return found


def _chosen(session: Session, evaluations: Sequence[Evaluation], query: GalleryQuery) -> list[BenchmarkPrompt]:
    """The asked prompts that all evaluations draw, by their numbers; `count` of them by lot where none is named."""
    by_index = {prompt.index: prompt for prompt in results.benchmark(session, evaluations[0]).prompts}
    common = set(by_index).intersection(*(one.prompts for one in evaluations))
    if query.dimension:
        raw = [prompt.model_dump() for prompt in by_index.values()]
        common &= {index for index, _ in results.points_of(raw, query.dimension)}
    if query.index:
        for place, index in enumerate(query.index):
            if index not in common:
                msg = f"prompt {index} is not drawn by all of these evaluations, or not of that dimension"
                raise invalid(["query", "index", place], msg, "no_such_prompt")
        common = set(query.index)
    elif len(common) > query.count:
        common = set(random.Random(query.seed).sample(sorted(common), query.count))  # noqa: S311 - no secret
    if not common:
        raise NotFound("there is no prompt that all of these evaluations draw, and that is of such a dimension")
    return [by_index[index] for index in sorted(common)]


def _images(session: Session, id: uuid.UUID, indices: Sequence[int], count: int) -> _Found:
    """Images with the newest scores, by prompt and number."""
    places = [(index, image_index) for index in indices for image_index in range(count)]
    images = select(EvaluationImage).where(
        EvaluationImage.evaluation_id == id, tuple_(EvaluationImage.index, EvaluationImage.image_index).in_(places)
    )
    columns = (EvaluationAnswer.index, EvaluationAnswer.image_index, EvaluationAnswer.scores)
    answers = select(*columns).where(
        EvaluationAnswer.evaluation_id == id,
        is_newest(),
        tuple_(EvaluationAnswer.index, EvaluationAnswer.image_index).in_(places),
    )
    scores = {(index, image_index): scores for index, image_index, scores in session.execute(answers)}
    return {
        (one.index, one.image_index): (one, scores.get((one.index, one.image_index))) for one in session.scalars(images)
    }


def _shown(found: _Found, prompt: BenchmarkPrompt, image_index: int) -> Shown | None:
    if (prompt.index, image_index) not in found:
        return None
    row, scores = found[prompt.index, image_index]
    return Shown(row.key, row.sha256, row.seed, tuple(scores or [None] * len(prompt.points)))
