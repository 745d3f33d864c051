"""Export the newest answers of an evaluation in the result file formats of the official scripts."""

import json
import uuid
from collections import Counter
from collections.abc import Iterator

from sqlalchemy import select, tuple_
from sqlalchemy.orm import Session

from service.api.evaluations import results
from service.contracts.benchmarks.data import Benchmark
from service.contracts.evaluations import ImageName
from service.db.evaluation_scores import full_benchmark_of, is_newest, newest_verdicts
from service.db.models import EvaluationAnswer
from service.db.session import Database
from service.http.content_negotiation import csv_text
from service.http.errors import WrongState

COLUMNS = ("index", "prompt", "testpoint", "output", "result_json", "img_path")
_PAGE = 100
"""The number of answers per query. The text of an answer takes a few KiB."""


def rows(database: Database, id: uuid.UUID) -> Iterator[str]:
    """Yield the official CSV file in pieces.

    Raises NotFound, NotFinished or WrongState before the first piece. Each piece is read when it is needed, and no
    database connection is held in between. Also raises NotFinished or WrongState if the evaluation is resumed during
    the export, and NotFound if it is deleted; the output is then incomplete.
    """
    with database.sessions() as session:
        evaluation = results.ended(session, id)
        results.check_judged(evaluation)
        attempt, benchmark = evaluation.attempt, full_benchmark_of(session, evaluation)
    yield csv_text([COLUMNS], "\n")
    after = (-1, -1)
    while True:
        with database.sessions() as session:
            if results.ended(session, id).attempt != attempt:
                raise WrongState(f"Evaluation {id} was resumed during the export; export it again", "resumed")
            page = _page(session, id, after)
        if not page:
            return
        yield csv_text(_cells(benchmark, page), "\n")
        after = (page[-1].index, page[-1].image_index)


def summary(session: Session, id: uuid.UUID) -> str:
    """Return the official JSON summary, with the counts of met and judged test points by dimension.

    Dimensions are spelled as in the benchmark. Raises NotFound, NotFinished, and WrongState if the evaluation has no
    judge.
    """
    evaluation = results.ended(session, id)
    results.check_judged(evaluation)
    prompts = {prompt.index: prompt for prompt in full_benchmark_of(session, evaluation).prompts}
    spellings: dict[str, str] = {}
    correct: dict[str, Counter[str]] = {"primary_dimensions": Counter(), "sub_dimensions": Counter()}
    total: dict[str, Counter[str]] = {"primary_dimensions": Counter(), "sub_dimensions": Counter()}
    for answer in newest_verdicts(session, id):
        if answer.verdict.scores is None:
            continue
        for point, score in zip(prompts[answer.index].points, answer.verdict.scores, strict=True):
            name = spellings.setdefault(point.dimension, point.name)
            for part, key in (("primary_dimensions", name.partition("-")[0].strip()), ("sub_dimensions", name)):
                correct[part][key] += score
                total[part][key] += 1
    return json.dumps(
        {
            part: {
                name: {"correct": correct[part][name], "total": n, "accuracy": round(correct[part][name] / n, 4)}
                for name, n in (sorted(counts.items()) if part == "sub_dimensions" else counts.items())
            }
            for part, counts in total.items()
        },
        ensure_ascii=False,
    )


def _page(session: Session, id: uuid.UUID, after: tuple[int, int]) -> list[EvaluationAnswer]:
    key = (EvaluationAnswer.index, EvaluationAnswer.image_index)
    query = select(EvaluationAnswer).where(EvaluationAnswer.evaluation_id == id, is_newest(), tuple_(*key) > after)
    return list(session.scalars(query.order_by(*key).limit(_PAGE)))


def _cells(benchmark: Benchmark, page: list[EvaluationAnswer]) -> Iterator[tuple[str, ...]]:
    prompts = {prompt.index: prompt for prompt in benchmark.prompts}
    for row in page:
        prompt = prompts[row.index]
        names = [point.name for point in prompt.points]
        scored = row.scores is not None
        result = {"prompt": prompt.text, "testpoint": names, "score": row.scores} if scored else None
        result_json = json.dumps(result, ensure_ascii=False, indent=4)
        name = ImageName(index=row.index, image_index=row.image_index).file
        yield str(row.index), prompt.text, str(names), row.text or "", result_json, name
