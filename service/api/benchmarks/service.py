"""The rules of benchmarks: what a name means, what is stored, how a result file is scored."""

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter
from sqlalchemy import func, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session, undefer

from service.api.benchmarks.schemas import (
    BenchmarkFilters,
    BenchmarkSummary,
    BenchmarkView,
    JudgeWordsView,
    PromptFilters,
    Rescore,
    RescoreQuery,
)
from service.contracts.benchmarks.bundled import bundled, bundled_sha256
from service.contracts.benchmarks.data import Benchmark, JudgeWords
from service.contracts.benchmarks.dimensions import PRIMARY, SUB, dimension_of, primary_named, primary_of
from service.contracts.benchmarks.results import Answers, Counts, read_csv, read_json, read_lines
from service.contracts.benchmarks.scores import scores, scores_of_counts, tally
from service.db.base import new_id
from service.db.models import BenchmarkRow
from service.http.errors import FieldError, Invalid, NotFound, invalid
from service.http.pagination import Page, decode_cursor, encode_cursor

CSV, JSON, LINES = "text/csv", "application/json", "application/x-ndjson"
FORMS = (CSV, JSON, LINES)
"""Media types of result files."""
_NAME, _INDEX = TypeAdapter(tuple[str]), TypeAdapter(tuple[int])


def store(session: Session, benchmark: Benchmark) -> bool:
    """Keep a benchmark, and have its name mean it from now on. False: the same content was there already."""
    row = {
        "id": new_id(),
        "name": benchmark.name,
        "content_sha256": benchmark.content_sha256,
        "data_sha256": benchmark.data_sha256,
        "pinned": benchmark.pinned,
        "prompt_count": len(benchmark.prompts),
        "point_count": benchmark.point_count,
        "about": benchmark.model_dump(mode="json", exclude={"prompts"}),
        "prompts": [prompt.model_dump(mode="json") for prompt in benchmark.prompts],
    }
    inserting = insert(BenchmarkRow).values(row)
    # Where the same prompts come from another file now, that is what is known of it.
    again = {name: inserting.excluded[name] for name in ("data_sha256", "pinned", "about")}
    kept = session.scalar(
        inserting.on_conflict_do_update(
            index_elements=[BenchmarkRow.name, BenchmarkRow.content_sha256],
            set_={**again, "imported_at": func.clock_timestamp()},
        ).returning(BenchmarkRow.id)
    )
    return kept == row["id"]


def bring_bundled(session: Session) -> None:
    """Have the benchmark that this version ships, unless it is here already. Commits, unless the caller had begun."""
    begun = session.in_transaction()
    same = (BenchmarkRow.name == bundled().name, BenchmarkRow.content_sha256 == bundled_sha256())
    if session.scalar(select(BenchmarkRow.id).where(*same)) is None:
        store(session, bundled())
        if not begun:
            session.commit()


def names(session: Session) -> list[str]:
    """The names that mean something here."""
    bring_bundled(session)
    return list(session.scalars(select(BenchmarkRow.name).distinct().order_by(BenchmarkRow.name)))


def current(session: Session, name: str) -> Benchmark:
    """The benchmark that a name means. Raises NotFound."""
    return current_row(session, name).benchmark()


def listing(session: Session, filters: BenchmarkFilters) -> Page[BenchmarkSummary]:
    """Every benchmark once, by name."""
    bring_bundled(session)
    query = (
        select(BenchmarkRow)
        .distinct(BenchmarkRow.name)
        .order_by(BenchmarkRow.name, BenchmarkRow.imported_at.desc(), BenchmarkRow.id.desc())
        .limit(filters.limit + 1)
    )
    if filters.cursor is not None:
        query = query.where(BenchmarkRow.name > decode_cursor(filters.cursor, _NAME)[0])
    rows = session.scalars(query).all()
    page = rows[: filters.limit]
    return Page(
        items=[BenchmarkSummary(**_summary(row)) for row in page],
        next_cursor=encode_cursor(page[-1].name) if len(rows) > len(page) else None,
    )


def show(session: Session, name: str, filters: PromptFilters) -> BenchmarkView:
    """A benchmark with those of its prompts that fit. Raises NotFound, Invalid."""
    row = current_row(session, name)
    benchmark = row.benchmark()
    wanted = dimensions_meant(filters.dimension)
    after = -1 if filters.cursor is None else decode_cursor(filters.cursor, _INDEX)[0]
    fitting = [
        prompt
        for prompt in sorted(benchmark.prompts, key=lambda prompt: prompt.index)
        if prompt.index > after and (not wanted or any(point.dimension in wanted for point in prompt.points))
    ]
    page = fitting[: filters.limit]
    counted = Counter(point.dimension for prompt in benchmark.prompts for point in prompt.points)
    return BenchmarkView(
        **_summary(row),
        repairs=list(benchmark.repairs),
        left_out=list(benchmark.left_out),
        dimensions={one: counted[one] for one in SUB if counted[one]},
        judge=JudgeWordsView(**benchmark.judge.model_dump()) if benchmark.judge else None,
        prompts=Page(items=page, next_cursor=encode_cursor(page[-1].index) if len(fitting) > len(page) else None),
    )


def dimensions_meant(asked: Sequence[str]) -> set[str]:
    """The sub-dimensions that a query's `dimension` means, primary or sub. Raises Invalid."""
    wanted, errors = set(), []
    for name in asked:
        primary, sub = primary_named(name), dimension_of(name)
        wanted |= {one for one in SUB if one == sub or (sub is None and primary_of(one) == primary)}
        if primary is None and sub is None:
            msg = f"there is no dimension {name!r}; the ten are {', '.join(PRIMARY)}; `dimensions` has those under them"
            errors.append(FieldError(loc=["query", "dimension"], msg=msg, type="unknown_dimension"))
    if errors:
        raise Invalid(errors)
    return wanted


def rescore(benchmark: Benchmark, file: Path, file_sha256: str, media_type: str, query: RescoreQuery) -> Rescore:
    """Score an official result file on the benchmark. Raises Invalid, with every row that does not belong to it."""
    from service.core.bootstrap import intervals  # numpy, which no other route has to load

    read = _read(benchmark, file, media_type)
    if isinstance(read, Counts):
        found = scores_of_counts(read.sub)
    else:
        if read.problems:
            raise Invalid([_of_row(one.row, one.description) for one in read.problems])
        if not read.answers:
            raise invalid(["body"], "the file has no rows", "no_rows")
        counted = tally(benchmark, read.answers)
        found = scores(counted, intervals(counted, query.seed, query.resamples), points=query.points)
    return Rescore(
        benchmark=benchmark.name,
        data_sha256=benchmark.data_sha256,
        content_sha256=benchmark.content_sha256,
        file_sha256=file_sha256,
        form="counts" if isinstance(read, Counts) else "answers",
        scores=found,
    )


def _read(benchmark: Benchmark, file: Path, media_type: str) -> Answers | Counts:
    try:
        # As the csv module wants it: line ends inside quotes are the cell's own.
        with file.open(encoding="utf-8-sig", newline="" if media_type == CSV else None) as text:
            if media_type == JSON:
                return read_json(text.read(), benchmark)
            return read_csv(text, benchmark) if media_type == CSV else read_lines(text, benchmark)
    except UnicodeDecodeError as error:
        raise invalid(["body"], f"the file is not in UTF-8: {error.reason}", "not_utf8") from error
    except json.JSONDecodeError as error:
        raise invalid(["body", error.pos], f"the file is no JSON: {error.msg}", "json_invalid") from error
    except ValueError as error:
        raise invalid(["body"], str(error), "no_results") from error


def _of_row(row: int, description: str) -> FieldError:
    return FieldError(loc=["body", row], msg=description, type="bad_row")


def current_row(session: Session, name: str) -> BenchmarkRow:
    """The row of the benchmark that a name means. Raises NotFound."""
    if name == bundled().name:
        bring_bundled(session)
    query = (
        select(BenchmarkRow)
        .where(BenchmarkRow.name == name)
        .order_by(BenchmarkRow.imported_at.desc(), BenchmarkRow.id.desc())
        .limit(1)
        .options(undefer(BenchmarkRow.prompts))
    )
    row = None if "\x00" in name else session.scalar(query)
    if row is None:
        known = ", ".join(names(session))
        raise NotFound(
            f"there is no benchmark {name[:100]!r}; there are: {known}; `g2rpo benchmarks import` brings more"
        )
    return row


def _summary(row: BenchmarkRow) -> dict[str, Any]:
    shown = {name: row.about[name] for name in ("name", "title", "language", "length", "file")}
    columns = ("prompt_count", "point_count", "data_sha256", "pinned", "content_sha256", "imported_at")
    judge = JudgeWords.model_validate(row.about["judge"]) if row.about["judge"] else None
    hashes = {name: getattr(judge, name, None) for name in ("template_sha256", "definitions_sha256")}
    return shown | hashes | {name: getattr(row, name) for name in columns}
