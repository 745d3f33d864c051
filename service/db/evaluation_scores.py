"""Read an evaluation's answers and compute its scores. Only the newest answer for each image is used."""

import uuid
from collections import defaultdict
from collections.abc import Iterator, Sequence

import structlog
from sqlalchemy import ColumnElement, exists, select
from sqlalchemy.exc import InterfaceError, InternalError, OperationalError
from sqlalchemy.orm import Session, aliased, undefer

from service.contracts.benchmarks.data import Benchmark
from service.contracts.benchmarks.judge_answers import Failure, Verdict
from service.contracts.benchmarks.results import Answer
from service.contracts.benchmarks.scores import Tally, scores, tally
from service.contracts.evaluations import RewardMean
from service.db.models import BenchmarkRow, Evaluation, EvaluationAnswer, EvaluationImage

log = structlog.get_logger()


def is_newest() -> ColumnElement[bool]:
    """Return the condition that a row of `evaluation_answers` is the newest answer for its image."""
    newer = aliased(EvaluationAnswer)
    columns = ("evaluation_id", "index", "image_index")
    same = [getattr(newer, column) == getattr(EvaluationAnswer, column) for column in columns]
    return ~exists().where(*same, newer.number > EvaluationAnswer.number)


def newest(session: Session, evaluation_id: uuid.UUID) -> Sequence[EvaluationAnswer]:
    """Return the newest answer for each image, sorted by prompt and image."""
    query = select(EvaluationAnswer).where(EvaluationAnswer.evaluation_id == evaluation_id, is_newest())
    return session.scalars(query.order_by(EvaluationAnswer.index, EvaluationAnswer.image_index)).all()


def newest_verdicts(session: Session, evaluation_id: uuid.UUID) -> Iterator[Answer]:
    """Yield the newest answer for each image, without its text, sorted by prompt and image."""
    columns = (EvaluationAnswer.index, EvaluationAnswer.image_index, EvaluationAnswer.scores, EvaluationAnswer.failure)
    query = select(*columns).where(EvaluationAnswer.evaluation_id == evaluation_id, is_newest())
    for index, image_index, points, failure in session.execute(query.order_by(*columns[:2])):
        verdict = Verdict(None if points is None else tuple(points), Failure(failure) if failure else None)
        yield Answer(index, image_index, verdict)


def full_benchmark_of(session: Session, row: Evaluation) -> Benchmark:
    """Load the benchmark of an evaluation with all of its prompts."""
    return session.get_one(BenchmarkRow, row.benchmark_id, options=[undefer(BenchmarkRow.prompts)]).benchmark()


def benchmark_of(session: Session, row: Evaluation) -> Benchmark:
    """Load the benchmark of an evaluation with only the prompts that are evaluated."""
    benchmark, indices = full_benchmark_of(session, row), set(row.prompts)
    return benchmark.model_copy(update={"prompts": tuple(p for p in benchmark.prompts if p.index in indices)})


def tally_of(session: Session, row: Evaluation) -> Tally:
    """Count the test points met in an evaluation's newest answers."""
    return tally(benchmark_of(session, row), newest_verdicts(session, row.id))


def rewards_by_prompt(session: Session, row: Evaluation) -> dict[str, dict[int, list[float | None]]]:
    """Return the image values by reward and prompt index. A value is None if the reward failed."""
    values: dict[str, dict[int, list[float | None]]] = defaultdict(lambda: defaultdict(list))
    query = select(EvaluationImage.index, EvaluationImage.rewards).where(EvaluationImage.evaluation_id == row.id)
    for index, rewards in session.execute(query.order_by(EvaluationImage.index, EvaluationImage.image_index)):
        for name, value in rewards.items():
            values[name][index].append(value)
    return values


def score(session: Session, row: Evaluation) -> None:
    """Compute an evaluation's scores and mean rewards from its current answers and images, and store them in `row`."""
    from service.core.bootstrap_intervals import intervals  # imports numpy, which most routes do not need

    if row.judge is not None:
        counted = tally_of(session, row)
        row.scores = scores(counted, intervals(counted)).model_dump(mode="json")
    rewards = rewards_by_prompt(session, row)
    row.rewards = {name: _mean(values).model_dump(mode="json") for name, values in rewards.items()} or None


def conclude(session: Session, row: Evaluation) -> None:
    """Score an evaluation that is about to end. If scoring fails, the error is logged and the evaluation still ends.

    Only errors that mean the database is unavailable are raised.
    """
    try:
        with session.begin_nested():
            score(session, row)
    except (OperationalError, InterfaceError, InternalError):
        raise
    except Exception:
        log.exception("evaluation.not_scored", evaluation=str(row.id))


def _mean(by_prompt: dict[int, list[float | None]]) -> RewardMean:
    from service.core.bootstrap_intervals import mean_over_prompts

    known = [[value for value in values if value is not None] for values in by_prompt.values()]
    images = sum(map(len, known))
    mean, interval = mean_over_prompts([values for values in known if values])
    failures = sum(map(len, by_prompt.values())) - images
    return RewardMean(mean=mean, interval95=interval, images=images, failures=failures)
