"""Compare two evaluations on the same benchmark, prompt by prompt. Importing this module imports numpy."""

import uuid
from collections.abc import Iterator

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from service.api.benchmarks.schemas import BootstrapQuery
from service.api.evaluations import results
from service.api.evaluations.schemas import Compared, EvaluationComparison
from service.contracts.status import JobStatus
from service.core.bootstrap_intervals import compare, compare_values
from service.db.evaluation_scores import is_newest, rewards_by_prompt, tally_of
from service.db.models import Evaluation, EvaluationAnswer
from service.http.errors import invalid

_SETTINGS = ("num_images", "seed", "steps", "guidance", "width", "height")
"""The spec fields that cause a warning if they differ."""


def comparison(
    session: Session, first_id: uuid.UUID, second_id: uuid.UUID, query: BootstrapQuery
) -> EvaluationComparison:
    """Compute the differences between two evaluations, as the second minus the first.

    Raises NotFound, NotFinished, and Invalid if the evaluations are not comparable.
    """
    rows = first, second = results.ended(session, first_id), results.ended(session, second_id)
    benchmark = results.check_same_benchmark(session, first, second, ["path", "second_id"])
    judges = [results.judge_of(row) for row in rows]
    judged = all(judges)
    if judged and judges[0] != judges[1]:
        msg = f"The judges differ: {judges[0]!r} and {judges[1]!r}. Compare evaluations with the same judge"
        raise invalid(["path", "second_id"], msg, "other_judge")
    labels = results.labels(session, [first_id, second_id])
    sides = [
        Compared(
            id=row.id, label=labels[row.id], status=row.status, model=row.model, checkpoint=str(row.spec["checkpoint"])
        )
        for row in rows
    ]
    scores = None
    if judged:
        scores = compare(tally_of(session, first), tally_of(session, second), query.seed, query.resamples)
    rewards = [
        {
            name: {index: [value for value in values if value is not None] for index, values in by_prompt.items()}
            for name, by_prompt in rewards_by_prompt(session, row).items()
        }
        for row in rows
    ]
    return EvaluationComparison(
        first=sides[0],
        second=sides[1],
        benchmark=benchmark.name,
        content_sha256=benchmark.content_sha256,
        judge=judges[0] if judged else None,
        scores=scores,
        rewards={
            name: compare_values(rewards[0].get(name, {}), rewards[1].get(name, {}), query.seed, query.resamples)
            for name in first.spec["rewards"]
            if name in second.spec["rewards"]
        },
        warnings=list(_warnings(session, first, second)),
    )


def _warnings(session: Session, first: Evaluation, second: Evaluation) -> Iterator[str]:
    for name in _SETTINGS:
        if first.spec.get(name) != second.spec.get(name):
            yield f"{name} differs: {first.spec.get(name)} in the first, {second.spec.get(name)} in the second"
    if sorted(first.prompts) != sorted(second.prompts):
        yield (
            f"the first has {len(first.prompts)} prompts, the second {len(second.prompts)}; "
            "only common prompts are compared"
        )
    for side, row in (("first", first), ("second", second)):
        if row.status is not JobStatus.SUCCEEDED:
            yield f"the {side} is {row.status}: images may be missing"
        if row.judge is None:
            yield f"the {side} has no judge: only rewards are compared"
        elif failures := _failures(session, row):
            yield f"unreadable answers of the {side}: {failures}"
    for side, row, other in (("first", first, second), ("second", second, first)):
        if names := sorted(set(row.spec["rewards"]) - set(other.spec["rewards"])):
            yield f"only the {side} has the rewards {', '.join(names)}"


def _failures(session: Session, row: Evaluation) -> int:
    failed = EvaluationAnswer.scores.is_(None)
    query = select(func.count()).where(EvaluationAnswer.evaluation_id == row.id, is_newest(), failed)
    return session.scalar(query) or 0
