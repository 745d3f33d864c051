"""Build the leaderboard from evaluations and published results, and format it as tables."""

from typing import Any

from sqlalchemy import SQLColumnExpression, and_, func, select
from sqlalchemy.orm import Session

from service.api.benchmarks import service as benchmarks
from service.api.evaluations.results import label
from service.api.leaderboard.schemas import Leaderboard
from service.contracts.benchmarks.leaderboard import (
    COLUMNS,
    OVERALL,
    SHORT,
    Mark,
    Ranking,
    Row,
    Setting,
    printed,
    printed_interval,
    published_rows,
    rank,
)
from service.contracts.benchmarks.official import FILES
from service.contracts.benchmarks.scores import Scores
from service.contracts.catalog import JudgeEntry
from service.contracts.evaluations import SEED
from service.contracts.status import JobStatus
from service.db.models import BenchmarkRow, Checkpoint, Evaluation, Run
from service.http.content_negotiation import csv_text
from service.http.errors import NotFound

MAX_EVALUATIONS = 200
"""Maximum number of evaluations in a leaderboard; the newest are kept."""
_OFFICIAL_IMAGES = 4
"""Number of images per prompt in the official protocol."""
_OFFICIAL_NAMES = tuple(file.name for file in FILES)
_OTHER_FIELDS = ("name", "judge", "rewards", "limit")
"""Spec fields that do not affect what is measured. The judge is compared by its identity instead of by name."""
_MARKED: dict[Mark | None, str] = {"best": "**{}**", "second": "<u>{}</u>", None: "{}"}
_SPECIAL = str.maketrans({letter: f"\\{letter}" for letter in "\\|*_`<>[]"})


def leaderboard(session: Session, benchmark: str) -> Leaderboard:
    """Return the rankings on a benchmark. Raises NotFound if the benchmark does not exist."""
    if benchmark not in _OFFICIAL_NAMES:
        names = sorted({*_OFFICIAL_NAMES, *benchmarks.names(session)})
        if benchmark not in names:
            raise NotFound(benchmarks.unknown_benchmark(benchmark, names))
    rows, notes = _evaluated_rows(session, benchmark)
    rankings = rank([*published_rows(benchmark), *rows])
    return Leaderboard(benchmark=benchmark, columns=list(COLUMNS), notes=notes, rankings=rankings)


def heading(ranking: Ranking) -> str:
    """Describe the benchmark, judge, data, protocol and images of a ranking in one line."""
    data = f"data {ranking.data_sha256[:12]}" if ranking.data_sha256 else "data unknown"
    images = "" if ranking.num_images is None else f", {ranking.num_images} images per prompt from seed {ranking.seed}"
    return f"{ranking.benchmark}, judge {ranking.judge}, {data}, protocol {ranking.protocol}{images}"


def csv_table(board: Leaderboard) -> str:
    """Format the leaderboard as CSV. The cells `best` and `second` list the columns in which the row has that mark."""
    setting = tuple(Setting.model_fields)
    about, details = ("model", "kind", "source"), ("evaluation_id", "failed_answers")
    header = (*setting, *about, *COLUMNS, "best", "second", "overall_low", "overall_high", *details)
    return csv_text([
        header,
        *(
            (
                *(getattr(row, name) for name in (*setting, *about)),
                *(printed(row.values.get(column)) for column in COLUMNS),
                *("; ".join(name for name in COLUMNS if row.marks.get(name) == mark) for mark in ("best", "second")),
                *map(printed, row.intervals95.get(OVERALL, (None, None))),
                *(getattr(row, name) for name in details),
            )
            for ranking in board.rankings
            for row in ranking.rows
        ),
    ])  # fmt: skip


def markdown(board: Leaderboard) -> str:
    """Format each ranking as a Markdown table, with the 95% interval of each value.

    The best value is bold if it is clearly best, and the second best is underlined.
    """
    parts = [f"# {board.benchmark}" + ("" if board.rankings else "\n\nNo rows yet.")]
    parts += map(_escaped, board.notes)
    for ranking in board.rankings:
        lines = [f"## {_escaped(heading(ranking))}", "", *(f"{_escaped(note)}\n" for note in ranking.notes)]
        lines.append("| Model | " + " | ".join(SHORT[column] for column in COLUMNS) + " | |")
        lines.append("|---|" + "---:|" * len(COLUMNS) + "---|")
        for row in ranking.rows:
            cells = [
                _escaped(row.model),
                *(_cell(row, column) for column in COLUMNS),
                f"{row.kind}: {_escaped(_about(row))}",
            ]
            lines.append("| " + " | ".join(cells) + " |")
        parts.append("\n".join(lines))
    return "\n\n".join(parts) + "\n"


def _cell(row: Row, column: str) -> str:
    mark: Mark | None = (
        "best" if column in row.clearly_best else "second" if row.marks.get(column) == "second" else None
    )
    interval = printed_interval(row, column)
    return _MARKED[mark].format(printed(row.values.get(column))) + (f" ({interval})" if interval else "")


def _evaluated_rows(session: Session, benchmark: str) -> tuple[list[Row], list[str]]:
    """Return the rows of a benchmark's evaluations, newest first, and notes about omitted evaluations.

    Only the newest evaluation is used for each combination of model, settings and judge. Evaluations that cover only
    some of the prompts are omitted because their mean is taken over different prompts.
    """
    judge = func.coalesce(Evaluation.judge["model"].astext, Evaluation.judge["name"].astext)
    settings: SQLColumnExpression[Any] = Evaluation.spec
    for name in _OTHER_FIELDS:
        settings = settings.op("-")(name)
    identity = (Evaluation.benchmark_id, judge, settings)
    all_prompts = func.jsonb_array_length(Evaluation.prompts) == BenchmarkRow.prompt_count
    judged = and_(
        BenchmarkRow.name == benchmark,
        Evaluation.status == JobStatus.SUCCEEDED,
        Evaluation.scores.is_not(None),
        Evaluation.judge.is_not(None),
    )
    newest = (
        select(Evaluation.id)
        .join(Evaluation.benchmark)
        .where(judged, all_prompts)
        .distinct(*identity)
        .order_by(*identity, Evaluation.id.desc())
    )
    query = (
        select(Evaluation, Checkpoint, Run, BenchmarkRow)
        .join(Evaluation.benchmark)
        .outerjoin(Checkpoint, Checkpoint.id == Evaluation.checkpoint_id)
        .outerjoin(Run, Run.id == Checkpoint.run_id)
        .where(Evaluation.id.in_(newest))
        .order_by(Evaluation.id.desc())
    )
    found = session.execute(query.limit(MAX_EVALUATIONS + 1)).all()
    partial = session.scalar(select(func.count(Evaluation.id)).join(Evaluation.benchmark).where(judged, ~all_prompts))
    notes = [f"only the newest {MAX_EVALUATIONS} evaluations are shown"] if len(found) > MAX_EVALUATIONS else []
    if partial:
        notes.append(f"evaluations of some of the prompts are not ranked: {partial} omitted")
    return [_evaluated_row(*one) for one in found[:MAX_EVALUATIONS]], notes


def _evaluated_row(
    evaluation: Evaluation, checkpoint: Checkpoint | None, run: Run | None, benchmark: BenchmarkRow
) -> Row:
    scores = Scores.model_validate(evaluation.scores)
    judge = JudgeEntry.model_validate(evaluation.judge)
    num_images, seed = evaluation.spec["num_images"], evaluation.spec["seed"]
    official = (
        benchmark.pinned
        and benchmark.name in _OFFICIAL_NAMES
        and judge.kind == "openai"
        and (num_images, seed) == (_OFFICIAL_IMAGES, SEED)
    )
    shares = {OVERALL: scores.overall, **{name: accuracy.accuracy for name, accuracy in scores.primary.items()}}
    intervals = {OVERALL: scores.overall_interval95, **{name: one.interval95 for name, one in scores.primary.items()}}
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
        intervals95={name: (100 * one[0], 100 * one[1]) for name, one in intervals.items() if one is not None},
        failed_answers=scores.failed_answers,
        values={name: None if share is None else 100 * share for name, share in shares.items()},
    )


def _about(row: Row) -> str:
    """Describe the source of a row, with its number of failed answers, if any."""
    about = [row.source]
    if row.failed_answers:
        about.append(f"failed answers: {row.failed_answers}")
    return ", ".join(about)


def _escaped(text: str) -> str:
    return " ".join(text.translate(_SPECIAL).split())
