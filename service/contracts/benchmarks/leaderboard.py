"""Leaderboard rules that decide which rows are ranked together and which values are marked best and second best."""

from collections import defaultdict
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path
from typing import Any, Literal
from uuid import UUID

import yaml
from pydantic import Field

from service.contracts.base import Contract, Name
from service.contracts.benchmarks.dimensions import PRIMARY
from service.contracts.benchmarks.scores import Interval, mean_of_ten

OVERALL = "Overall"
COLUMNS = (OVERALL, *PRIMARY)
"""The leaderboard columns, in the order of the paper's Table 2."""
SHORT = {**{name: name for name in COLUMNS}, "World Knowledge": "World Know.", "Relationship": "Relation."} | {
    "Logical Reasoning": "Logic.Reason.",
    "Entity Layout": "Layout",
    "Text Generation": "Text",
}
"""Column headings as in the paper's Table 2."""
PUBLISHED = Path(__file__).with_name("published.yaml")

Mark = Literal["best", "second"]


class Setting(Contract):
    """The fields that must be equal for rows to be comparable."""

    benchmark: Name
    judge: str
    data_sha256: str | None = Field(description="SHA-256 of the benchmark's data; null if not stated.")
    protocol: str = Field(
        description="`official`: the official data, judge texts, number of images and seeds, judged by a "
        "vision-language model; `adapted`: any difference from these; `published`: the source does not state the "
        "protocol."
    )
    content_sha256: str | None = Field(None, description="SHA-256 of prompts, test points and judge texts.")
    num_images: int | None = Field(None, description="Images per prompt.")
    seed: int | None = Field(None, description="Seed of the first image of each prompt; image j has seed + j.")


class Row(Setting):
    """The leaderboard row of a model."""

    model: str = Field(description="Name of the evaluated model.")
    kind: Literal["published", "evaluated"] = Field(
        description="Whether the values come from a publication or from an evaluation by this service."
    )
    source: str = Field(description="The publication or the evaluation.")
    evaluation_id: UUID | None = Field(None, description="Id of the evaluation; null for published rows.")
    intervals95: dict[str, Interval] = Field({}, description="95% intervals over prompts by column, in percent.")
    failed_answers: int | None = Field(None, description="Number of images with an unreadable answer.")
    values: dict[str, float | None] = Field(description="Values by column, in percent.")
    marks: dict[str, Mark] = Field({}, description="By column, whether the value is the best or second best.")
    clearly_best: tuple[str, ...] = Field(
        (), description="Columns whose best value differs from all lower values by more than the 95% intervals."
    )


class Ranking(Setting):
    """Comparable rows, ordered from best to worst overall score."""

    notes: tuple[str, ...] = ()
    rows: tuple[Row, ...]


class _PublishedRow(Contract):
    model: str
    overall: float
    dimensions: tuple[float, ...] = Field(min_length=len(PRIMARY), max_length=len(PRIMARY))


class Publication(Contract):
    """A published table, with values as printed."""

    source: str
    benchmark: Name
    judge: str
    note: str
    rows: tuple[_PublishedRow, ...]


@cache
def publications() -> tuple[Publication, ...]:
    """Load the published tables that ship with this package."""
    return tuple(Publication.model_validate(one) for one in yaml.safe_load(PUBLISHED.read_text(encoding="utf-8")))


def published_rows(benchmark: str) -> list[Row]:
    """Return the published rows for a benchmark. Overall is computed from the ten primary dimensions."""
    rows = []
    for table in publications():
        for row in table.rows if table.benchmark == benchmark else ():
            ten: dict[str, float | None] = dict(zip(PRIMARY, row.dimensions, strict=True))
            rows.append(
                Row(
                    model=row.model,
                    kind="published",
                    source=table.source,
                    benchmark=table.benchmark,
                    judge=table.judge,
                    data_sha256=None,
                    protocol="published",
                    values={OVERALL: mean_of_ten(ten), **ten},
                )
            )
    return rows


def rank(rows: Iterable[Row]) -> list[Ranking]:
    """Group the rows by setting, sort each group, and mark the best and second-best values.

    Values that are equal when printed with two decimals get the same mark.
    """
    groups: dict[Setting, list[Row]] = defaultdict(list)
    for row in rows:
        groups[Setting(**{name: getattr(row, name) for name in Setting.model_fields})].append(row)
    return [
        Ranking(**setting.model_dump(), notes=tuple(_notes(setting)), rows=tuple(_marked(group)))
        for setting, group in groups.items()
    ]


def printed(value: float | None) -> str:
    """Format a value with two decimals, as in tables; None becomes an empty string."""
    return "" if value is None else f"{value:.2f}"


def printed_interval(row: Row, column: str) -> str:
    """Format the interval of a value with one decimal; an empty string if there is none."""
    interval = row.intervals95.get(column)
    return "" if interval is None else "{:.1f}\N{EN DASH}{:.1f}".format(*interval)


def _notes(setting: Setting) -> Iterator[str]:
    for table in publications():
        if setting.protocol == "published" and (table.benchmark, table.judge) == (setting.benchmark, setting.judge):
            yield table.note


def _marked(rows: list[Row]) -> Iterator[Row]:
    marks: dict[str, dict[str, Any]] = {}
    for column in COLUMNS:
        values = {printed(row.values.get(column)) for row in rows} - {""}
        marks[column] = dict(zip(sorted(values, key=float, reverse=True), ("best", "second"), strict=False))
    for row in sorted(rows, key=_overall, reverse=True):
        own = {column: marks[column].get(printed(row.values.get(column))) for column in COLUMNS}
        clear = tuple(column for column, mark in own.items() if mark == "best" and _is_clear(row, rows, column))
        marked = {column: mark for column, mark in own.items() if mark}
        yield row.model_copy(update={"marks": marked, "clearly_best": clear})


def _is_clear(row: Row, rows: list[Row], column: str) -> bool:
    """Whether no lower value is in the interval of the best value, nor the best value in the interval of a lower one.

    Rows without an interval, such as published ones, count as exact.
    """
    best = row.values[column] or 0.0
    low = row.intervals95.get(column, (best, best))[0]
    others = [
        (value, other.intervals95.get(column, (value, value))[1])
        for other in rows
        if (value := other.values.get(column)) is not None and printed(value) != printed(best)
    ]
    return all(value < low and high < best for value, high in others)


def _overall(row: Row) -> float:
    value = row.values.get(OVERALL)
    return float("-inf") if value is None else value
