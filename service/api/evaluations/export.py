"""The files of the official scripts, as they would have written them of an evaluation's newest answers."""

import csv
import io
import json
import uuid
from collections import Counter
from collections.abc import Iterable, Iterator

from sqlalchemy import select, tuple_
from sqlalchemy.orm import Session

from service.api.evaluations import results
from service.contracts.benchmarks.data import Benchmark
from service.contracts.evaluations import ImageName
from service.db.evaluation_scores import is_newest, newest_verdicts
from service.db.models import EvaluationAnswer
from service.db.session import Database
from service.http.errors import WrongState

COLUMNS = ("index", "prompt", "testpoint", "output", "result_json", "img_path")
_PAGE = 100
"""Answers read at once: a judge's words are some KiB."""


def rows(database: Database, id: uuid.UUID) -> Iterator[str]:
    """The official CSV, piece by piece. Raises NotFound, NotFinished and WrongState before the first.

    No piece is read before it is wanted, and no connection is held in between. Raises WrongState where the evaluation
    was resumed meanwhile, and NotFound where it was deleted: what has been given is then not the whole.
    """
    with database.sessions() as session:
        evaluation = results.ended(session, id)
        results.check_judged(evaluation)
        attempt, benchmark = evaluation.attempt, results.benchmark(session, evaluation)
    yield _lines([COLUMNS])
    after = (-1, -1)
    while True:
        with database.sessions() as session:
            if results.ended(session, id).attempt != attempt:
                raise WrongState(f"evaluation {id} was resumed while it was exported; ask again", "resumed")
            page = _page(session, id, after)
        if not page:
            return
        yield _lines(_cells(benchmark, page))
        after = (page[-1].index, page[-1].image_index)


def summary(session: Session, id: uuid.UUID) -> str:
    """The official JSON: test points met and judged, by dimension as the benchmark spells it.

    Raises NotFound, NotFinished, WrongState.
    """
    evaluation = results.ended(session, id)
    results.check_judged(evaluation)
    prompts = {prompt.index: prompt for prompt in results.benchmark(session, evaluation).prompts}
    spelled: dict[str, str] = {}
    correct: Counter[str] = Counter()
    total: Counter[str] = Counter()
    for answer in newest_verdicts(session, id):
        if answer.verdict.scores is not None:
            for point, score in zip(prompts[answer.index].points, answer.verdict.scores, strict=True):
                name = spelled.setdefault(point.dimension, point.name)
                for one in (name, name.partition("-")[0].strip()) if "-" in name else (name,):
                    correct[one] += score
                    total[one] += 1
    primary = dict.fromkeys(name.partition("-")[0].strip() for name in spelled.values())
    whole = {"primary_dimensions": primary, "sub_dimensions": sorted(spelled.values())}
    return json.dumps(
        {part: {name: _count(correct[name], total[name]) for name in names} for part, names in whole.items()},
        ensure_ascii=False,
    )


def _count(correct: int, total: int) -> dict[str, float]:
    return {"correct": correct, "total": total, "accuracy": round(correct / total, 4)}


def _page(session: Session, id: uuid.UUID, after: tuple[int, int]) -> list[EvaluationAnswer]:
    place = tuple_(EvaluationAnswer.index, EvaluationAnswer.image_index)
    query = select(EvaluationAnswer).where(EvaluationAnswer.evaluation_id == id, is_newest(), place > after)
    return list(session.scalars(query.order_by(EvaluationAnswer.index, EvaluationAnswer.image_index).limit(_PAGE)))


def _cells(benchmark: Benchmark, page: list[EvaluationAnswer]) -> Iterator[tuple[str, ...]]:
    prompts = {prompt.index: prompt for prompt in benchmark.prompts}
    for row in page:
        prompt = prompts[row.index]
        names = [point.name for point in prompt.points]
        found = None
        if row.scores is not None:
            found = {"prompt": prompt.text, "testpoint": names, "score": row.scores}
        written = json.dumps(found, ensure_ascii=False, indent=4)
        name = ImageName(index=row.index, image_index=row.image_index).file
        yield str(row.index), prompt.text, str(names), row.text or "", written, name


def _lines(cells: Iterable[tuple[str, ...]]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(cells)
    return text.getvalue()
