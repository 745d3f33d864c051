"""Store benchmarks, look them up by name, filter their prompts by dimension, and score result files."""

import json
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from difflib import get_close_matches
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
    PromptFilters,
    Rescore,
    RescoreQuery,
)
from service.contracts.benchmarks.bundled import bundled, bundled_sha256
from service.contracts.benchmarks.data import Benchmark, JudgePrompt
from service.contracts.benchmarks.dimensions import PRIMARY, SUB, dimension_of, primary_named, primary_of
from service.contracts.benchmarks.results import Answers, Counts, read_csv, read_json, read_lines
from service.contracts.benchmarks.scores import scores, scores_of_counts, tally
from service.db.base import new_id
from service.db.models import BenchmarkRow
from service.http.errors import FieldError, Invalid, NotFound, invalid
from service.http.pagination import Page, decode_cursor, encode_cursor, paged

CSV, JSON, LINES = "text/csv", "application/json", "application/x-ndjson"
MEDIA_TYPES = (CSV, JSON, LINES)
"""The supported media types of result files."""
_INDEX = TypeAdapter(tuple[int])
_NEWEST = (BenchmarkRow.imported_at.desc(), BenchmarkRow.id.desc())


def store(session: Session, benchmark: Benchmark) -> bool:
    """Store a benchmark as the newest version of its name. Returns False if the same content was already stored."""
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
    statement = insert(BenchmarkRow).values(row)
    # The same prompts may have been imported from a different file.
    updated = {name: statement.excluded[name] for name in ("data_sha256", "pinned", "about")}
    stored = session.scalar(
        statement.on_conflict_do_update(
            index_elements=[BenchmarkRow.name, BenchmarkRow.content_sha256],
            set_={**updated, "imported_at": func.clock_timestamp()},
        ).returning(BenchmarkRow.id)
    )
    return stored == row["id"]


def store_bundled(session: Session) -> None:
    """Store the benchmark bundled with this version if it is not stored yet.

    Commits it, unless the session is already in a transaction.
    """
    in_transaction = session.in_transaction()
    same = (BenchmarkRow.name == bundled().name, BenchmarkRow.content_sha256 == bundled_sha256())
    if session.scalar(select(BenchmarkRow.id).where(*same)) is None:
        store(session, bundled())
        if not in_transaction:
            session.commit()


def names(session: Session) -> list[str]:
    """Return the sorted names of all benchmarks."""
    store_bundled(session)
    return list(session.scalars(select(BenchmarkRow.name).distinct().order_by(BenchmarkRow.name)))


def unknown_benchmark(name: str, available: Iterable[str]) -> str:
    """Return the error message for an unknown benchmark name, with a similar name if there is one."""
    similar = get_close_matches(name, available := list(available), n=1)
    hint = f" Did you mean {similar[0]!r}?" if similar else ""
    return (
        f"Benchmark {name[:100]!r} not found.{hint} Available: {', '.join(available)}. "
        "Import others with `g2rpo benchmarks import`"
    )


def current_row(session: Session, name: str) -> BenchmarkRow:
    """Return the newest row with the given benchmark name. Raises NotFound."""
    if name == bundled().name:
        store_bundled(session)
    query = select(BenchmarkRow).where(BenchmarkRow.name == name).order_by(*_NEWEST).limit(1)
    row = None if "\x00" in name else session.scalar(query.options(undefer(BenchmarkRow.prompts)))
    if row is None:
        raise NotFound(unknown_benchmark(name, names(session)))
    return row


def current(session: Session, name: str) -> Benchmark:
    """Return the newest benchmark with the given name. Raises NotFound."""
    return current_row(session, name).benchmark()


def listing(session: Session, filters: BenchmarkFilters) -> Page[BenchmarkSummary]:
    """Return a page of benchmarks sorted by name, with only the newest benchmark for each name."""
    store_bundled(session)
    query = select(BenchmarkRow).distinct(BenchmarkRow.name)

    def view(row: BenchmarkRow) -> BenchmarkSummary:
        return BenchmarkSummary(**_summary(row))

    return paged(session, query, (BenchmarkRow.name,), filters, view, ascending=True, then=_NEWEST)


def show(session: Session, name: str, filters: PromptFilters) -> BenchmarkView:
    """Return a benchmark with a page of its matching prompts.

    Raises NotFound, and Invalid if a dimension or the cursor is invalid.
    """
    row = current_row(session, name)
    benchmark = row.benchmark()
    dimensions = sub_dimensions(filters.dimension)
    after = -1 if filters.cursor is None else decode_cursor(filters.cursor, _INDEX)[0]
    matching = [
        prompt
        for prompt in sorted(benchmark.prompts, key=lambda prompt: prompt.index)
        if prompt.index > after and (not dimensions or any(point.dimension in dimensions for point in prompt.points))
    ]
    page = matching[: filters.limit]
    counts = Counter(point.dimension for prompt in benchmark.prompts for point in prompt.points)
    return BenchmarkView(
        **_summary(row),
        dimensions={dimension: counts[dimension] for dimension in SUB if counts[dimension]},
        prompts=Page(items=page, next_cursor=encode_cursor(page[-1].index) if len(matching) > len(page) else None),
    )


def sub_dimensions(requested: Sequence[str]) -> set[str]:
    """Return the sub-dimensions selected by the primary and sub-dimension names in a query.

    Raises Invalid if a name is unknown.
    """
    found, errors = set(), []
    for name in requested:
        primary, sub = primary_named(name), dimension_of(name)
        found |= {one for one in SUB if one == sub or (sub is None and primary_of(one) == primary)}
        if primary is None and sub is None:
            msg = f"Unknown dimension {name!r}. Available: {', '.join(PRIMARY)}, and their sub-dimensions"
            errors.append(FieldError(loc=["query", "dimension"], msg=msg, type="unknown_dimension"))
    if errors:
        raise Invalid(errors)
    return found


def rescore(
    benchmark: Benchmark,
    file: Path,
    file_sha256: str,
    media_type: str,
    query: RescoreQuery,
    check: Callable[[], None] = lambda: None,
) -> Rescore:
    """Score an official result file. `check` is called before each line or row and may raise.

    Raises Invalid if the file is not readable or has no rows, with an error for each of the first rows that do not
    belong to the benchmark.
    """
    from service.core.bootstrap_intervals import intervals  # imports numpy, which other routes do not need

    read = _read(benchmark, file, media_type, check)
    if isinstance(read, Counts):
        found = scores_of_counts(read.sub)
    else:
        if read.problems:
            raise Invalid([FieldError(loc=["body", p.row], msg=p.description, type="bad_row") for p in read.problems])
        if not read.answers:
            raise invalid(["body"], "The file has no rows", "no_rows")
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


def _read(benchmark: Benchmark, file: Path, media_type: str, check: Callable[[], None]) -> Answers | Counts:
    try:
        # The csv module needs unchanged line endings inside quotes.
        with file.open(encoding="utf-8-sig", newline="" if media_type == CSV else None) as text:
            if media_type == JSON:
                return read_json(text, benchmark, check)
            return (read_csv if media_type == CSV else read_lines)(text, benchmark, check)
    except UnicodeDecodeError as error:
        raise invalid(["body"], f"The file is not UTF-8: {error.reason}", "not_utf8") from error
    except json.JSONDecodeError as error:
        raise invalid(["body", error.pos], f"Invalid JSON: {error.msg}", "json_invalid") from error
    except ValueError as error:
        raise invalid(["body"], str(error), "no_results") from error


def _summary(row: BenchmarkRow) -> dict[str, Any]:
    judge = JudgePrompt.model_validate(row.about["judge"]) if row.about["judge"] else None
    columns = ("prompt_count", "point_count", "content_sha256", "imported_at")
    hashes = {name: getattr(judge, name, None) for name in ("template_sha256", "definitions_sha256")}
    return row.about | hashes | {name: getattr(row, name) for name in columns}
