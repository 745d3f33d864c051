"""Leaderboard rules: which rows may stand in one ranking, and which values are marked as the best and the second."""

from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Literal, NamedTuple
from uuid import UUID

import yaml
from pydantic import Field

from service.contracts.base import Contract, Name
from service.contracts.benchmarks.dimensions import PRIMARY
from service.contracts.benchmarks.scores import Interval, mean_of_ten

OVERALL = "Overall"
COLUMNS = (OVERALL, *PRIMARY)
"""Of a leaderboard, in the order of the paper's Table 2."""
SHORT = dict(
    zip(
        COLUMNS,
        (
            *("Overall", "Style", "World Know.", "Attribute", "Action", "Relation."),
            *("Logic.Reason.", "Grammar", "Compound", "Layout", "Text"),
        ),
        strict=True,
    )
)
"""The names of the columns in that table."""
PUBLISHED = Path(__file__).with_name("published.yaml")

Mark = Literal["best", "second"]


class Row(Contract):
    """A model's place in a leaderboard."""

    model: str = Field(description="What was judged.")
    kind: Literal["published", "evaluated"] = Field(
        description="Whether others published it, or it was evaluated here."
    )
    source: str = Field(description="Where it comes from.")
    benchmark: Name
    judge: str
    data_sha256: str | None = Field(description="Of the benchmark's data; null where the source does not tell it.")
    protocol: str = Field(
        description="`official`: the official data, words, numbers of images and seeds, and a vision-language model; "
        "`adapted`: otherwise; `published` where the source says no more."
    )
    content_sha256: str | None = Field(None, description="Of prompts, test points and the judge's words.")
    num_images: int | None = Field(None, description="Images per prompt.")
    seed: int | None = Field(None, description="Of the first image of each prompt; image j has this + j.")
    evaluation_id: UUID | None = Field(
        None, description="The evaluation that it is of; null where others published it."
    )
    overall_interval95: Interval | None = Field(
        None, description="95% bootstrap interval over prompts of the Overall, percent."
    )
    failed_answers: int | None = Field(None, description="Images whose answer could not be read.")
    values: dict[str, float | None] = Field(description="By column, percent.")
    marks: dict[str, Mark] = Field({}, description="By column, of the best values and those next to them.")


class Ranking(Contract):
    """Rows of one judge, one benchmark's content, one protocol, the same number of images and the same seeds: only
    these can be compared. Best first."""

    benchmark: Name
    judge: str
    data_sha256: str | None
    protocol: str
    content_sha256: str | None = None
    num_images: int | None = None
    seed: int | None = None
    notes: tuple[str, ...] = ()
    rows: tuple[Row, ...]


class _Given(Contract):
    model: str
    overall: float
    dimensions: tuple[float, ...] = Field(min_length=len(PRIMARY), max_length=len(PRIMARY))


class Publication(Contract):
    """A table that others published, as printed."""

    source: str
    benchmark: Name
    judge: str
    note: str
    rows: tuple[_Given, ...]


class _Key(NamedTuple):
    benchmark: str
    judge: str
    data_sha256: str | None
    protocol: str
    content_sha256: str | None
    num_images: int | None
    seed: int | None


@cache
def publications() -> tuple[Publication, ...]:
    """The published tables that this package has."""
    return tuple(Publication.model_validate(one) for one in yaml.safe_load(PUBLISHED.read_text(encoding="utf-8")))


def published_rows(benchmark: str) -> list[Row]:
    """The published rows of a benchmark. Overall is computed from their ten columns, not copied."""
    rows = []
    for table in publications():
        for given in table.rows if table.benchmark == benchmark else ():
            ten: dict[str, float | None] = dict(zip(PRIMARY, given.dimensions, strict=True))
            row = Row(
                model=given.model,
                kind="published",
                source=table.source,
                benchmark=table.benchmark,
                judge=table.judge,
                data_sha256=None,
                protocol="published",
                values={OVERALL: mean_of_ten(ten), **ten},
            )
            rows.append(row)
    return rows


def rank(rows: Iterable[Row]) -> list[Ranking]:
    """Rows ranked among those of the same benchmark, judge, data, protocol, images and seeds, with their marks.

    Best and second are computed on what is printed, two decimals of a percent: equal numbers share a mark.
    """
    groups: dict[_Key, list[Row]] = {}
    for row in rows:
        groups.setdefault(_Key(*(getattr(row, name) for name in _Key._fields)), []).append(row)
    notes = {(one.benchmark, one.judge): one.note for one in publications()}
    return [
        Ranking(
            **key._asdict(),
            notes=tuple(
                note for of, note in notes.items() if of == (key.benchmark, key.judge) and key.protocol == "published"
            ),
            rows=tuple(_marked(group)),
        )
        for key, group in groups.items()
    ]


def shown(value: float | None) -> str:
    """A value as tables print it."""
    return "" if value is None else f"{value:.2f}"


def _marked(rows: list[Row]) -> Iterable[Row]:
    marks: dict[str, dict[str, Mark]] = {}
    names: tuple[Mark, Mark] = ("best", "second")
    for column in COLUMNS:
        printed = {shown(row.values.get(column)) for row in rows} - {""}
        marks[column] = dict(zip(sorted(printed, key=float, reverse=True), names, strict=False))
    best_first = sorted(rows, key=lambda row: _or_least(row.values.get(OVERALL)), reverse=True)
    for row in best_first:
        own = {column: marks[column].get(shown(row.values.get(column))) for column in COLUMNS}
        yield row.model_copy(update={"marks": {column: mark for column, mark in own.items() if mark}})


def _or_least(value: float | None) -> float:
    return float("-inf") if value is None else value
