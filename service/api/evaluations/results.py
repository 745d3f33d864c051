"""The rules of what evaluations found: which answers and images there are, and what an evaluation is called."""

import uuid
from collections.abc import Collection, Iterable, Sequence
from typing import Any

from sqlalchemy import ARRAY, ColumnElement, Integer, cast, exists, func, select
from sqlalchemy.orm import Session, undefer

from service.api.benchmarks.service import sub_dimensions
from service.api.evaluations.results_schemas import (
    AnswerFilters,
    AnswerView,
    Dimensions,
    EvaluationImageView,
    ImageFilters,
    JudgedPoint,
)
from service.contracts.benchmarks.data import Benchmark, BenchmarkPrompt
from service.contracts.benchmarks.judging import Failure
from service.contracts.catalog import JudgeEntry
from service.contracts.evaluations import EvaluationSpec, ImageName
from service.contracts.status import TERMINAL
from service.db.evaluation_scores import is_newest
from service.db.models import BenchmarkRow, Checkpoint, Evaluation, EvaluationAnswer, EvaluationImage, Run
from service.http.errors import NotFinished, NotFound, WrongState, invalid
from service.http.pagination import Page, paged
from service.jobs import views

_ANSWER = (EvaluationAnswer.index, EvaluationAnswer.image_index, EvaluationAnswer.number)
_IMAGE = (EvaluationImage.index, EvaluationImage.image_index)


def ended(session: Session, id: uuid.UUID) -> Evaluation:
    """An evaluation to which no more happens by itself. Raises NotFound, NotFinished."""
    row = views.find(session, Evaluation, id)
    if row.status not in TERMINAL:
        raise NotFinished(f"evaluation {id} is {row.status}; ask again once it has ended")
    return row


def judge_of(row: Evaluation) -> str | None:
    """What an evaluation's scores are labelled with; None: nobody judged."""
    return None if row.judge is None else JudgeEntry.model_validate(row.judge).identity


def check_judged(row: Evaluation) -> None:
    """Raise WrongState for an evaluation without a judge."""
    if row.judge is None:
        raise WrongState(f"evaluation {row.id} has no judge: there are no scores of it, only rewards", "not_judged")


def benchmark(session: Session, row: Evaluation) -> Benchmark:
    """The benchmark of an evaluation, with all its prompts."""
    return _with_prompts(session, row).benchmark()


def same_benchmark(session: Session, first: Evaluation, second: Evaluation, where: Sequence[str | int]) -> BenchmarkRow:
    """The benchmark of both. Raises Invalid, at `where`, unless their prompts, test points and judge's words agree."""
    rows = [session.get_one(BenchmarkRow, one.benchmark_id) for one in (first, second)]
    if rows[0].content_sha256 != rows[1].content_sha256:
        told = [f"{row.name} (content {row.content_sha256[:12]})" for row in rows]
        msg = f"evaluation {second.id} is of {told[1]}, evaluation {first.id} of {told[0]}; both must be of the same"
        raise invalid(where, msg, "other_benchmark")
    return rows[0]


def answers(session: Session, id: uuid.UUID, filters: AnswerFilters) -> Page[AnswerView]:
    """An evaluation's answers by prompt, image and number. Raises NotFound, Invalid."""
    row = views.find(session, Evaluation, id)
    prompts = {one["index"]: one for one in _with_prompts(session, row).prompts}
    query = select(EvaluationAnswer).where(EvaluationAnswer.evaluation_id == id)
    if filters.tries == "newest":
        query = query.where(is_newest())
    if filters.index is not None:
        query = query.where(EvaluationAnswer.index == filters.index)
    if filters.failure is not None:
        query = query.where(EvaluationAnswer.failure == filters.failure)
    if filters.dimension:
        query = query.where(_has(points_of(prompts.values(), filters.dimension), filters.met))
    elif filters.met is not None:
        query = query.where(EvaluationAnswer.scores.contains([int(filters.met)]))
    return paged(session, query, _ANSWER, filters, lambda one: _answer(one, prompts), ascending=True)


def images(session: Session, id: uuid.UUID, filters: ImageFilters) -> Page[EvaluationImageView]:
    """An evaluation's images by prompt and number. Raises NotFound, Invalid."""
    row = views.find(session, Evaluation, id)
    prompts = {one["index"]: one["text"] for one in _with_prompts(session, row).prompts}
    query = select(EvaluationImage).where(EvaluationImage.evaluation_id == id)
    if filters.index is not None:
        query = query.where(EvaluationImage.index == filters.index)

    def view(one: EvaluationImage) -> EvaluationImageView:
        name = ImageName(index=one.index, image_index=one.image_index).file
        shown = {
            column: getattr(one, column) for column in ("index", "image_index", "seed", "rewards", "sha256", "size")
        }
        return EvaluationImageView(**shown, name=name, prompt=prompts[one.index], url=_url(one))

    return paged(session, query, _IMAGE, filters, view, ascending=True)


def image(session: Session, id: uuid.UUID, index: int, image_index: int) -> EvaluationImage:
    """One image. Raises NotFound, and NotFinished while it may still be drawn."""
    row = views.find(session, Evaluation, id)
    found = session.get(EvaluationImage, (id, index, image_index))
    if found is not None:
        return found
    if row.status not in TERMINAL and index in row.prompts and image_index < row.spec["num_images"]:
        raise NotFinished(f"image {index}_{image_index} of evaluation {id} is not drawn yet; it is {row.status}")
    raise NotFound(f"evaluation {id} has no image {index}_{image_index}")


def points_of(prompts: Iterable[dict[str, Any]], dimension: Dimensions) -> list[tuple[int, int]]:
    """Prompt and place of every test point of those dimensions. Raises Invalid."""
    wanted = sub_dimensions(dimension)
    return [
        (prompt["index"], place)
        for prompt in prompts
        for place, point in enumerate(prompt["points"])
        if point["dimension"] in wanted
    ]


def labels(session: Session, ids: Collection[uuid.UUID]) -> dict[uuid.UUID, str]:
    """What each of those evaluations is called."""
    query = (
        select(Evaluation, Checkpoint, Run)
        .outerjoin(Checkpoint, Checkpoint.id == Evaluation.checkpoint_id)
        .outerjoin(Run, Run.id == Checkpoint.run_id)
        .where(Evaluation.id.in_(ids))
    )
    return {row.id: label(row, checkpoint, run) for row, checkpoint, run in session.execute(query)}


def label(row: Evaluation, checkpoint: Checkpoint | None, run: Run | None) -> str:
    """An evaluation's name, else its model and what is known of the checkpoint."""
    if row.name:
        return row.name
    if checkpoint is None:
        drawn = row.spec["checkpoint"]
        return row.model if drawn == "base" else f"{row.model}, checkpoint {drawn[-6:]}"
    if run is None:
        return f"{row.model}, {checkpoint.name or f'checkpoint {str(checkpoint.id)[-6:]}'}"
    return f"{row.model}, step {checkpoint.step} of {run.name or str(run.id)[-6:]}"


def spec_of(row: Evaluation) -> EvaluationSpec:
    """The spec of an evaluation, whose fields may have other bounds by now."""
    return EvaluationSpec.model_construct(**row.spec)


def _with_prompts(session: Session, row: Evaluation) -> BenchmarkRow:
    return session.get_one(BenchmarkRow, row.benchmark_id, options=[undefer(BenchmarkRow.prompts)])


def _has(points: list[tuple[int, int]], met: bool | None) -> ColumnElement[bool]:
    """Whether an answer is on one of those test points, and says what is asked for of it."""
    columns = [cast([point[side] for point in points], ARRAY(Integer)) for side in (0, 1)]
    asked = func.unnest(*columns).table_valued("index", "place", name="asked").render_derived()
    holds = [asked.c.index == EvaluationAnswer.index]
    if met is not None:
        holds.append(EvaluationAnswer.scores[cast(asked.c.place, Integer)].as_integer() == int(met))
    return exists(select(1).select_from(asked).where(*holds))


def _answer(row: EvaluationAnswer, prompts: dict[int, dict[str, Any]]) -> AnswerView:
    prompt = BenchmarkPrompt.model_validate(prompts[row.index])
    scores: Sequence[int | None] = row.scores or [None] * len(prompt.points)
    return AnswerView(
        index=row.index,
        image_index=row.image_index,
        number=row.number,
        name=ImageName(index=row.index, image_index=row.image_index).file,
        prompt=prompt.text,
        points=[
            JudgedPoint(place=place, **point.model_dump(), score=score)
            for place, (point, score) in enumerate(zip(prompt.points, scores, strict=True))
        ],
        text=row.text,
        failure=None if row.failure is None else Failure(row.failure),
        error=row.error,
        seconds=row.seconds,
        answered_at=row.answered_at,
        image_url=_url(row),
    )


def _url(row: EvaluationAnswer | EvaluationImage) -> str:
    return f"/evaluations/{row.evaluation_id}/images/{row.index}/{row.image_index}"
