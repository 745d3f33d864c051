"""Read the results of evaluations: answers, images, and labels."""

import uuid
from collections.abc import Collection, Iterable, Sequence

from sqlalchemy import ARRAY, ColumnElement, Integer, cast, exists, func, select
from sqlalchemy.orm import Session

from service.api.benchmarks.schemas import Dimensions
from service.api.benchmarks.service import sub_dimensions
from service.api.evaluations.schemas import AnswerFilters, AnswerView, EvaluationImageView, ImageFilters, JudgedPoint
from service.contracts.benchmarks.data import BenchmarkPrompt
from service.contracts.catalog import JudgeEntry
from service.contracts.evaluations import ImageName
from service.contracts.status import TERMINAL
from service.db.evaluation_scores import full_benchmark_of, is_newest
from service.db.models import BenchmarkRow, Checkpoint, Evaluation, EvaluationAnswer, EvaluationImage, Run
from service.http.errors import NotFinished, NotFound, WrongState, invalid
from service.http.links import link
from service.http.pagination import Page, paged
from service.jobs import views


def ended(session: Session, id: uuid.UUID) -> Evaluation:
    """Return an evaluation that has ended. Raises NotFound, and NotFinished if it has not ended."""
    row = views.find(session, Evaluation, id)
    if row.status not in TERMINAL:
        raise NotFinished(f"Evaluation {id} is {row.status}; retry when it has ended")
    return row


def judge_of(row: Evaluation) -> str | None:
    """Return the judge's identity, which labels scores, or None if the evaluation has no judge."""
    return None if row.judge is None else JudgeEntry.model_validate(row.judge).identity


def check_judged(row: Evaluation) -> None:
    """Raise WrongState if an evaluation has no judge."""
    if row.judge is None:
        raise WrongState(f"Evaluation {row.id} has no judge and no scores, only rewards", "not_judged")


def check_same_benchmark(
    session: Session, first: Evaluation, second: Evaluation, loc: Sequence[str | int]
) -> BenchmarkRow:
    """Return the benchmark that both evaluations share.

    Raises Invalid, located at `loc`, if their prompts, test points or judge prompts differ.
    """
    rows = [session.get_one(BenchmarkRow, row.benchmark_id) for row in (first, second)]
    if rows[0].content_sha256 != rows[1].content_sha256:
        names = [f"{row.name} (content {row.content_sha256[:12]})" for row in rows]
        msg = f"Evaluation {second.id} is of {names[1]}, evaluation {first.id} of {names[0]}; the content must be equal"
        raise invalid(loc, msg, "other_benchmark")
    return rows[0]


def answers(session: Session, id: uuid.UUID, filters: AnswerFilters) -> Page[AnswerView]:
    """Return a page of an evaluation's matching answers, sorted by prompt, image and answer number.

    Raises NotFound, and Invalid if a dimension is unknown or the cursor is invalid.
    """
    prompts = _prompts(session, id)
    query = select(EvaluationAnswer).filter_by(evaluation_id=id, **filters.given("index", "failure"))
    if filters.tries == "newest":
        query = query.where(is_newest())
    if filters.dimension:
        query = query.where(_has_point(points_of(prompts.values(), filters.dimension), filters.met))
    elif filters.met is not None:
        query = query.where(EvaluationAnswer.scores.contains([int(filters.met)]))

    def view(row: EvaluationAnswer) -> AnswerView:
        prompt = prompts[row.index]
        points: list[JudgedPoint] = []
        for position, point in enumerate(prompt.points):
            score = None if row.scores is None else row.scores[position]
            points.append(JudgedPoint(position=position, score=score, **point.model_dump()))
        return views.from_row(AnswerView, row, name=_name(row), prompt=prompt.text, points=points, image_url=_url(row))

    key = (EvaluationAnswer.index, EvaluationAnswer.image_index, EvaluationAnswer.number)
    return paged(session, query, key, filters, view, ascending=True)


def images(session: Session, id: uuid.UUID, filters: ImageFilters) -> Page[EvaluationImageView]:
    """Return a page of an evaluation's images, sorted by prompt and image number. Raises NotFound, Invalid."""
    prompts = _prompts(session, id)
    query = select(EvaluationImage).filter_by(evaluation_id=id, **filters.given("index"))

    def view(row: EvaluationImage) -> EvaluationImageView:
        text = prompts[row.index].text
        return views.from_row(EvaluationImageView, row, name=_name(row), prompt=text, url=_url(row))

    key = (EvaluationImage.index, EvaluationImage.image_index)
    return paged(session, query, key, filters, view, ascending=True)


def image(session: Session, id: uuid.UUID, index: int, image_index: int) -> EvaluationImage:
    """Return the image with the given prompt index and image number.

    Raises NotFound, and NotFinished if the image may still be generated.
    """
    row = views.find(session, Evaluation, id)
    found = session.get(EvaluationImage, (id, index, image_index))
    if found is not None:
        return found
    if row.status not in TERMINAL and index in row.prompts and image_index < row.spec["num_images"]:
        raise NotFinished(f"Image {index}_{image_index} has not been generated yet; evaluation {id} is {row.status}")
    raise NotFound(f"Evaluation {id} has no image {index}_{image_index}")


def points_of(prompts: Iterable[BenchmarkPrompt], dimension: Dimensions) -> list[tuple[int, int]]:
    """Return the prompt index and position of every test point with one of the dimensions.

    Raises Invalid if a dimension is unknown.
    """
    dimensions = sub_dimensions(dimension)
    return [
        (prompt.index, position)
        for prompt in prompts
        for position, point in enumerate(prompt.points)
        if point.dimension in dimensions
    ]


def labels(session: Session, ids: Collection[uuid.UUID]) -> dict[uuid.UUID, str]:
    """Return the labels of evaluations by id."""
    query = (
        select(Evaluation, Checkpoint, Run)
        .outerjoin(Checkpoint, Checkpoint.id == Evaluation.checkpoint_id)
        .outerjoin(Run, Run.id == Checkpoint.run_id)
        .where(Evaluation.id.in_(ids))
    )
    return {row.id: label(row, checkpoint, run) for row, checkpoint, run in session.execute(query)}


def label(row: Evaluation, checkpoint: Checkpoint | None, run: Run | None) -> str:
    """Return an evaluation's name, or a description of its model and checkpoint if it has no name."""
    if row.name:
        return row.name
    if checkpoint is None:
        id = row.spec["checkpoint"]
        return row.model if id == "base" else f"{row.model}, checkpoint {id[-6:]}"
    if run is None:
        return f"{row.model}, {checkpoint.name or f'checkpoint {str(checkpoint.id)[-6:]}'}"
    return f"{row.model}, step {checkpoint.step} of {run.name or str(run.id)[-6:]}"


def _prompts(session: Session, id: uuid.UUID) -> dict[int, BenchmarkPrompt]:
    row = views.find(session, Evaluation, id)
    return {prompt.index: prompt for prompt in full_benchmark_of(session, row).prompts}


def _has_point(points: list[tuple[int, int]], met: bool | None) -> ColumnElement[bool]:
    """Return a condition that selects answers on one of the test points, and with that result if `met` is given."""
    columns = [cast([point[side] for point in points], ARRAY(Integer)) for side in (0, 1)]
    wanted = func.unnest(*columns).table_valued("index", "position", name="wanted").render_derived()
    conditions = [wanted.c.index == EvaluationAnswer.index]
    if met is not None:
        conditions.append(EvaluationAnswer.scores[cast(wanted.c.position, Integer)].as_integer() == int(met))
    return exists(select(1).select_from(wanted).where(*conditions))


def _name(row: EvaluationAnswer | EvaluationImage) -> str:
    return ImageName(index=row.index, image_index=row.image_index).file


def _url(row: EvaluationAnswer | EvaluationImage) -> str:
    return link(f"/evaluations/{row.evaluation_id}/images/{row.index}/{row.image_index}")
