"""Leaderboard rules: comparable rows, marks, and the published rows of the paper."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.contracts.benchmarks.dimensions import PRIMARY
from service.contracts.benchmarks.leaderboard import COLUMNS, OVERALL, Row, printed, publications, published_rows, rank


def row(model: str, overall: float | None = 50.0, **changes: Any) -> Row:
    """A row whose columns are all `overall`."""
    values = dict.fromkeys(COLUMNS, overall) | changes.pop("values", {})
    about = {"model": model, "kind": "evaluated", "source": "", "benchmark": "b", "judge": "j"}
    return Row.model_validate({**about, "data_sha256": "d", "protocol": "official", "values": values, **changes})


def marks(rows: list[Row], column: str = OVERALL) -> dict[str, str | None]:
    [ranking] = rank(rows)
    return {one.model: one.marks.get(column) for one in ranking.rows}


class TestPublished:
    def test_overall_of_the_five_rows_is_reproduced_from_their_columns(self) -> None:
        computed = {one.model: printed(one.values[OVERALL]) for one in published_rows("unigenbench-en")}
        overall = {one.model: printed(one.overall) for table in publications() for one in table.rows}
        paper = {"Flux.1-dev": "61.59", "DanceGRPO": "66.06", "MixGRPO": "66.60", "G²RPO w/o MGAI": "66.32"}
        assert computed == overall == {**paper, "G²RPO": "69.21"}

    def test_published_rows_have_a_source_and_a_judge(self) -> None:
        [ranking] = rank(published_rows("unigenbench-en"))
        assert {(one.kind, one.source) for one in ranking.rows} == {
            ("published", "G²RPO, supplementary material, Table 2")
        }
        assert (ranking.judge, ranking.protocol) == ("UniGenBench-EvalModel-qwen-72b-v1", "published")
        assert ranking.data_sha256 is None and ranking.notes

    def test_best_and_second_are_computed(self) -> None:
        """The marks of the paper, except for Layout: the second-best value is 80.78, but the paper underlines 79.29."""
        [ranking] = rank(published_rows("unigenbench-en"))
        holders = {
            (column, mark): [one.model for one in ranking.rows if one.marks.get(column) == mark]
            for column in COLUMNS for mark in ("best", "second")
        }  # fmt: skip
        assert holders[OVERALL, "best"] == ["G²RPO"] and holders[OVERALL, "second"] == ["MixGRPO"]
        assert holders["Style", "best"] == ["Flux.1-dev"] and holders["Style", "second"] == ["MixGRPO"]
        assert holders["Action", "second"] == ["MixGRPO", "DanceGRPO"]
        assert holders["Grammar", "best"] == ["Flux.1-dev"] and holders["Grammar", "second"] == ["G²RPO w/o MGAI"]
        assert holders["Entity Layout", "best"] == ["MixGRPO"] and holders["Entity Layout", "second"] == ["DanceGRPO"]

    def test_other_benchmarks_have_no_published_rows(self) -> None:
        assert published_rows("unigenbench-zh") == []


class TestMarks:
    def test_ties_share_a_mark_and_the_next_value_has_the_other(self) -> None:
        rows = [row("a", 60), row("b", 60), row("c", 50), row("d", 50), row("e", 40)]
        assert marks(rows) == {"a": "best", "b": "best", "c": "second", "d": "second", "e": None}

    def test_values_that_print_alike_are_ties(self) -> None:
        assert marks([row("a", 60.001), row("b", 60.004), row("c", 59.99)]) == {"a": "best", "b": "best", "c": "second"}

    def test_numbers_are_compared_as_numbers(self) -> None:
        assert marks([row("a", 9.5), row("b", 100.0), row("c", 10.0)]) == {"b": "best", "c": "second", "a": None}

    def test_a_missing_value_has_no_mark(self) -> None:
        rows = [row("a", None), row("b", 10, values={"Style": None})]
        assert marks(rows) == {"b": "best", "a": None}
        assert marks(rows, "Style") == {"b": None, "a": None}

    @given(st.lists(st.floats(0, 100) | st.none(), min_size=1, max_size=8))
    def test_marks_follow_the_printed_values(self, values: list[float | None]) -> None:
        [ranking] = rank([row(str(number), value) for number, value in enumerate(values)])
        order = sorted({float(printed(value)) for value in values if value is not None}, reverse=True)
        expected = dict(zip(order, ("best", "second"), strict=False))
        for one in ranking.rows:
            value = one.values[OVERALL]
            assert one.marks.get(OVERALL) == (None if value is None else expected.get(float(printed(value))))


class TestGroups:
    @pytest.mark.parametrize(
        "other",
        [{"judge": "x"}, {"data_sha256": "x"}, {"protocol": "adapted"}, {"benchmark": "x"}, {"data_sha256": None}],
    )
    def test_only_rows_of_one_setting_are_ranked_together(self, other: dict[str, Any]) -> None:
        rankings = rank([row("a", 40), row("b", 60, **other), row("c", 50)])
        assert [[one.model for one in ranking.rows] for ranking in rankings] == [["c", "a"], ["b"]]
        assert [ranking.rows[0].marks[OVERALL] for ranking in rankings] == ["best", "best"]

    def test_rows_are_sorted_best_first_without_score_last(self) -> None:
        [ranking] = rank([row("a", None), row("b", 40), row("c", 60)])
        assert [one.model for one in ranking.rows] == ["c", "b", "a"]

    def test_a_row_has_the_ten_columns_and_overall(self) -> None:
        assert (OVERALL, *PRIMARY) == COLUMNS
