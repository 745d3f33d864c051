"""The answers that count: the newest on each image of an evaluation."""

import uuid
from collections.abc import Iterator

from sqlalchemy import ColumnElement, exists, select
from sqlalchemy.orm import Session, aliased

from service.contracts.benchmarks.judging import Failure, Verdict
from service.contracts.benchmarks.results import Answer
from service.db.models import EvaluationAnswer


def is_newest() -> ColumnElement[bool]:
    """Whether a row of `evaluation_answers` is the newest on its image."""
    newer = aliased(EvaluationAnswer)
    place = ("evaluation_id", "index", "image_index")
    same = [getattr(newer, column) == getattr(EvaluationAnswer, column) for column in place]
    return ~exists().where(*same, newer.number > EvaluationAnswer.number)


def counted(session: Session, evaluation_id: uuid.UUID) -> Iterator[Answer]:
    """The answers of an evaluation that count, without their words, in the order of the images' names."""
    columns = (EvaluationAnswer.index, EvaluationAnswer.image_index, EvaluationAnswer.scores, EvaluationAnswer.failure)
    query = select(*columns).where(EvaluationAnswer.evaluation_id == evaluation_id, is_newest())
    ordered = query.order_by(EvaluationAnswer.index, EvaluationAnswer.image_index)
    for index, image_index, scores, failure in session.execute(ordered):
        said = None if scores is None else tuple(scores)
        yield Answer(index, image_index, Verdict(said, Failure(failure) if failure else None))
