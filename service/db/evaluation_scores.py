"""From an evaluation's answers to its scores."""

import uuid
from collections import defaultdict
from collections.abc import Sequence

import structlog
from sqlalchemy import select
from sqlalchemy.exc import InterfaceError, InternalError, OperationalError
from sqlalchemy.orm import Session, undefer

from service.contracts.benchmarks.data import Benchmark
from service.contracts.benchmarks.scores import Tally, scores, tally
from service.contracts.evaluations import RewardMean
from service.core.bootstrap import intervals, mean_over_prompts
from service.db.evaluation_answers import counted, is_newest
from service.db.models import BenchmarkRow, Evaluation, EvaluationAnswer, EvaluationImage

log = structlog.get_logger()


def newest(session: Session, evaluation_id: uuid.UUID) -> Sequence[EvaluationAnswer]:
    """The newest answer on each image, the only one that counts, in the order of the images' names."""
    query = select(EvaluationAnswer).where(EvaluationAnswer.evaluation_id == evaluation_id, is_newest())
    return session.scalars(query.order_by(EvaluationAnswer.index, EvaluationAnswer.image_index)).all()


def benchmark_of(session: Session, row: Evaluation) -> Benchmark:
    """The benchmark of an evaluation, with those prompts alone that are evaluated."""
    found = session.get_one(BenchmarkRow, row.benchmark_id, options=[undefer(BenchmarkRow.prompts)]).benchmark()
    wanted = set(row.prompts)
    return found.model_copy(update={"prompts": tuple(one for one in found.prompts if one.index in wanted)})


def tally_of(session: Session, row: Evaluation, benchmark: Benchmark) -> Tally:
    """What the newest answers come to."""
    return tally(benchmark, counted(session, row.id))


def score(session: Session, row: Evaluation) -> None:
    """Write an evaluation's scores and mean rewards, of all that is there by now."""
    if row.judge is not None:
        made = tally_of(session, row, benchmark_of(session, row))
        row.scores = scores(made, intervals(made)).model_dump(mode="json")
    found: dict[str, dict[int, list[float | None]]] = defaultdict(lambda: defaultdict(list))
    images = select(EvaluationImage.index, EvaluationImage.rewards).order_by(
        EvaluationImage.index, EvaluationImage.image_index
    )
    for index, rewards in session.execute(images.where(EvaluationImage.evaluation_id == row.id)):
        for name, value in rewards.items():
            found[name][index].append(value)
    row.rewards = {name: _mean(by_prompt).model_dump(mode="json") for name, by_prompt in found.items()} or None


def conclude(session: Session, row: Evaluation) -> None:
    """`score` an evaluation that comes to rest. Answers that cannot be scored must not keep it from that.

    Raises only what a database that is away raises.
    """
    try:
        with session.begin_nested():
            score(session, row)
    except (OperationalError, InterfaceError, InternalError):
        raise
    except Exception:
        log.exception("evaluation.not_scored", evaluation=str(row.id))


def _mean(by_prompt: dict[int, list[float | None]]) -> RewardMean:
    known = [[value for value in values if value is not None] for values in by_prompt.values()]
    images = sum(map(len, known))
    mean, interval = mean_over_prompts([values for values in known if values])
    failures = sum(map(len, by_prompt.values())) - images
    return RewardMean(mean=mean, interval95=interval, images=images, failures=failures)
