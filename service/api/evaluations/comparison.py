"""Two evaluations of one benchmark compared, prompt by prompt."""

import uuid
from collections.abc import Iterator

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from service.api.evaluations import results
from service.api.evaluations.results_schemas import Compared, CompareQuery, EvaluationComparison
from service.contracts.benchmarks.scores import ScoreDifferences
from service.contracts.status import JobStatus
from service.core.bootstrap import compare, compare_values
from service.db.evaluation_scores import is_newest, tally_of
from service.db.models import Evaluation, EvaluationAnswer, EvaluationImage
from service.http.errors import invalid

_SETTINGS = ("num_images", "seed", "steps", "guidance", "width", "height")
"""What differs between two evaluations that are otherwise of the same kind, beside the checkpoint."""


def comparison(
    session: Session, first_id: uuid.UUID, second_id: uuid.UUID, query: CompareQuery
) -> EvaluationComparison:
    """The second evaluation less the first. Raises NotFound, NotFinished, Invalid where they cannot be compared."""
    first, second = results.ended(session, first_id), results.ended(session, second_id)
    benchmark = results.same_benchmark(session, first, second, ["path", "second_id"])
    judges = [results.judge_of(one) for one in (first, second)]
    judged = all(judges)
    if judged and judges[0] != judges[1]:
        msg = f"it was judged by {judges[1]!r}, the first by {judges[0]!r}: scores of different judges do not compare"
        raise invalid(["path", "second_id"], msg, "other_judge")
    called = results.labels(session, [first_id, second_id])
    rewards = [_rewards(session, one) for one in (first, second)]
    return EvaluationComparison(
        first=_side(first, called[first_id]),
        second=_side(second, called[second_id]),
        benchmark=benchmark.name,
        content_sha256=benchmark.content_sha256,
        judge=judges[0] if judged else None,
        scores=_scores(session, first, second, query) if judged else None,
        rewards={
            name: compare_values(values, rewards[1][name], query.seed, query.resamples)
            for name, values in rewards[0].items()
            if name in rewards[1]
        },
        warnings=list(_warnings(session, first, second)),
    )


def _side(row: Evaluation, label: str) -> Compared:
    return Compared(id=row.id, label=label, status=row.status, model=row.model, checkpoint=str(row.spec["checkpoint"]))


def _scores(session: Session, first: Evaluation, second: Evaluation, query: CompareQuery) -> ScoreDifferences:
    counted = [tally_of(session, one) for one in (first, second)]
    return compare(counted[0], counted[1], query.seed, query.resamples)


def _rewards(session: Session, row: Evaluation) -> dict[str, dict[int, list[float]]]:
    """By reward and prompt, the values of the images that have one."""
    found: dict[str, dict[int, list[float]]] = {name: {} for name in row.spec["rewards"]}
    query = select(EvaluationImage.index, EvaluationImage.rewards).where(EvaluationImage.evaluation_id == row.id)
    ordered = query.order_by(EvaluationImage.index, EvaluationImage.image_index)
    for index, rewards in session.execute(ordered):
        for name in found:
            if (value := rewards.get(name)) is not None:
                found[name].setdefault(index, []).append(value)
    return found


def _warnings(session: Session, first: Evaluation, second: Evaluation) -> Iterator[str]:
    for name in _SETTINGS:
        values = [one.spec.get(name) for one in (first, second)]
        if values[0] != values[1]:
            yield f"{name} differs: {values[0]} in the first, {values[1]} in the second"
    if sorted(first.prompts) != sorted(second.prompts):
        yield f"the first draws {len(first.prompts)} prompts, the second {len(second.prompts)}; shared ones count"
    for side, one in (("first", first), ("second", second)):
        if one.status is not JobStatus.SUCCEEDED:
            yield f"the {side} is {one.status}: it may lack images"
        if one.judge is None:
            yield f"the {side} has no judge: only rewards are compared"
        elif failures := _failures(session, one):
            yield f"answers of the {side} that could not be read: {failures}"
    only = [
        sorted(set(one.spec["rewards"]) - set(other.spec["rewards"]))
        for one, other in ((first, second), (second, first))
    ]
    for side, names in zip(("first", "second"), only, strict=True):
        if names:
            yield f"only the {side} has the rewards {', '.join(names)}"


def _failures(session: Session, row: Evaluation) -> int:
    failed = EvaluationAnswer.scores.is_(None)
    query = select(func.count()).where(EvaluationAnswer.evaluation_id == row.id, is_newest(), failed)
    return session.scalar(query) or 0
