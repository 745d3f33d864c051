"""The evaluations that a leaderboard ranks: the newest of each model with the same settings, whole and judged."""

from typing import Any, NamedTuple

from sqlalchemy import SQLColumnExpression, and_, func, select
from sqlalchemy.orm import Session

from service.api.evaluations.results import label
from service.contracts.benchmarks.leaderboard import OVERALL, Row
from service.contracts.benchmarks.official import FILES
from service.contracts.benchmarks.scores import Scores
from service.contracts.catalog import JudgeEntry
from service.contracts.evaluations import SEED
from service.contracts.status import JobStatus
from service.db.models import BenchmarkRow, Checkpoint, Evaluation, Run

MOST = 200
"""Evaluations that a leaderboard shows: the newest."""
_IMAGES = 4
"""Per prompt, of the official protocol."""
_BESIDE = ("name", "judge", "rewards", "limit")
"""Fields of a spec in which evaluations may differ and measure the same; the judge counts by its identity."""


class Evaluated(NamedTuple):
    """The rows of evaluations, newest first, and what else there is, in words."""

    rows: list[Row]
    notes: list[str]


def evaluated(session: Session, benchmark: str) -> Evaluated:
    """The rows of a benchmark's evaluations. One of a part of the prompts is left out: its mean is of other prompts."""
    judge = func.coalesce(Evaluation.judge["model"].astext, Evaluation.judge["name"].astext)
    settings: SQLColumnExpression[Any] = Evaluation.spec
    for name in _BESIDE:
        settings = settings.op("-")(name)
    same = (Evaluation.benchmark_id, judge, settings)
    whole = func.jsonb_array_length(Evaluation.prompts) == BenchmarkRow.prompt_count
    judged = and_(
        BenchmarkRow.name == benchmark,
        Evaluation.status == JobStatus.SUCCEEDED,
        Evaluation.scores.is_not(None),
        Evaluation.judge.is_not(None),
    )
    at = BenchmarkRow.id == Evaluation.benchmark_id
    newest = (
        select(Evaluation.id)
        .join(BenchmarkRow, at)
        .where(judged, whole)
        .distinct(*same)
        .order_by(*same, Evaluation.id.desc())
        .subquery()
    )
    query = (
        select(Evaluation, Checkpoint, Run, BenchmarkRow)
        .join(BenchmarkRow, at)
        .outerjoin(Checkpoint, Checkpoint.id == Evaluation.checkpoint_id)
        .outerjoin(Run, Run.id == Checkpoint.run_id)
        .where(Evaluation.id.in_(select(newest.c.id)))
        .order_by(Evaluation.id.desc())
    )
    found = session.execute(query.limit(MOST + 1)).all()
    parts = session.scalar(select(func.count(Evaluation.id)).join(BenchmarkRow, at).where(judged, ~whole)) or 0
    notes = [f"only the newest {MOST} evaluations are shown"] if len(found) > MOST else []
    if parts:
        notes.append(f"evaluations of a part of the prompts are not ranked: {parts} left out")
    return Evaluated([_row(*one) for one in found[:MOST]], notes)


def _row(evaluation: Evaluation, checkpoint: Checkpoint | None, run: Run | None, benchmark: BenchmarkRow) -> Row:
    scores = Scores.model_validate(evaluation.scores)
    judge = JudgeEntry.model_validate(evaluation.judge)
    num_images, seed = evaluation.spec["num_images"], evaluation.spec["seed"]
    official = (
        benchmark.pinned
        and benchmark.name in {file.name for file in FILES}
        and judge.kind == "openai"
        and (num_images, seed) == (_IMAGES, SEED)
    )
    interval = scores.overall_interval95
    return Row(
        model=label(evaluation, checkpoint, run),
        kind="evaluated",
        source=f"evaluation {evaluation.id}, {evaluation.created_at:%Y-%m-%d}",
        benchmark=benchmark.name,
        judge=judge.identity,
        data_sha256=benchmark.data_sha256,
        protocol="official" if official else "adapted",
        content_sha256=benchmark.content_sha256,
        num_images=num_images,
        seed=seed,
        evaluation_id=evaluation.id,
        overall_interval95=None if interval is None else (100 * interval[0], 100 * interval[1]),
        failed_answers=scores.failed_answers,
        values={
            OVERALL: _percent(scores.overall),
            **{name: _percent(one.accuracy) for name, one in scores.primary.items()},
        },
    )


def _percent(share: float | None) -> float | None:
    return None if share is None else 100 * share
