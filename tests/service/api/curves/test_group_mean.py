"""Mean and band of a group: mathematical properties."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.api.curves.group_mean import Line, increasing, joined, mean, resampled, student_t
from service.api.curves.schemas import Band

BANDS: list[Band] = ["minmax", "std", "ci95", "none"]
VALUES = st.floats(-1e6, 1e6)
POSITIONS = st.lists(st.integers(0, 10_000), min_size=1, max_size=12, unique=True).map(sorted)


@st.composite
def lines(draw: st.DrawFn) -> Line:
    x = draw(POSITIONS)
    values = draw(st.lists(VALUES | st.just(math.nan), min_size=len(x), max_size=len(x)))
    return Line(np.array(x, np.float64) * 0.37, np.array(values))


GROUPS = st.lists(lines(), min_size=1, max_size=6)


class TestStudentT:
    @pytest.mark.parametrize(
        ("freedom", "quantile"),
        [
            *[(1, 12.706), (2, 4.303), (3, 3.182), (4, 2.776), (5, 2.571), (6, 2.447), (7, 2.365), (8, 2.306)],
            *[(9, 2.262), (10, 2.228), (15, 2.131), (20, 2.086), (29, 2.045), (30, 2.042), (40, 2.021), (60, 2.000)],
        ],
    )
    def test_quantiles_of_printed_tables(self, freedom: int, quantile: float) -> None:
        assert round(student_t(freedom), 3) == quantile

    def test_it_approaches_the_normal_quantile(self) -> None:
        quantiles = [student_t(freedom) for freedom in range(1, 64)]
        assert quantiles == sorted(quantiles, reverse=True)
        assert student_t(100_000) == pytest.approx(1.959964, abs=1e-4)


class TestIncreasing:
    def test_points_whose_x_does_not_increase_are_omitted(self) -> None:
        line = increasing([(0.0, 1.0), (10.0, 2.0), (10.0, 3.0), (7.0, 4.0), (11.0, None)])
        assert line.x.tolist() == [0, 10, 11]
        assert line.values.tolist()[:2] == [1, 2] and math.isnan(line.values[2])

    @given(st.lists(st.tuples(VALUES, VALUES | st.none()), min_size=1))
    def test_x_strictly_increases(self, points: list[tuple[float, float | None]]) -> None:
        line = increasing(points)
        assert (np.diff(line.x) > 0).all() and len(line.x) == len(line.values)


class TestJoined:
    @given(GROUPS)
    def test_every_point_is_kept_where_it_is(self, group: list[Line]) -> None:
        x, values = joined(group)
        assert (np.diff(x) > 0).all()
        for line, row in zip(group, values, strict=True):
            np.testing.assert_array_equal(row[np.isin(x, line.x)], line.values)
            assert np.isnan(row[~np.isin(x, line.x)]).all()


class TestResampled:
    def test_it_interpolates_linearly(self) -> None:
        first = Line(np.array([0.0, 10.0, 20.0]), np.array([0.0, 1.0, 0.0]))
        other = Line(np.array([5.0, 15.0, 30.0]), np.array([5.0, 7.0, 1.0]))
        x, values = resampled([first, other], 500)
        assert x.tolist() == [5, 10, 15, 20]
        np.testing.assert_allclose(values, [[0.5, 1, 0.5, 0], [5, 6, 7, 5]])

    def test_gaps_are_bridged(self) -> None:
        x, values = resampled([Line(np.array([0.0, 1.0, 2.0]), np.array([0.0, math.nan, 4.0]))] * 2, 500)
        assert (x.tolist(), values.tolist()) == ([0, 2], [[0, 4], [0, 4]])

    @pytest.mark.parametrize("values", [[math.nan, math.nan], [1.0, 2.0]])
    def test_lines_without_common_x_have_no_grid(self, values: list[float]) -> None:
        x, rows = resampled(
            [Line(np.array([0.0, 1.0]), np.array([0.0, 1.0])), Line(np.array([2.0, 3.0]), np.array(values))], 500
        )
        assert x.shape == (0,) and rows.shape == (2, 0)

    @given(GROUPS, st.integers(1, 20))
    def test_it_never_leaves_the_range_of_the_data(self, group: list[Line], max_points: int) -> None:
        x, rows = resampled(group, max_points)
        assert len(x) <= max_points and (np.diff(x) > 0).all() and np.isfinite(rows).all()
        for line, row in zip(group, rows, strict=True):
            if len(x):
                known = np.isfinite(line.values)
                assert line.x[known][0] <= x[0] and x[-1] <= line.x[known][-1]
                assert line.values[known].min() <= row.min() and row.max() <= line.values[known].max()

    @given(lines(), st.integers(1, 5))
    def test_lines_of_the_same_x_keep_their_values(self, line: Line, count: int) -> None:
        x, rows = resampled([line] * count, 500)
        known = np.isfinite(line.values)
        assert x.tolist() == line.x[known].tolist()
        assert all(row.tolist() == line.values[known].tolist() for row in rows)


class TestMean:
    def test_bands(self) -> None:
        values = np.array([[1.0], [2.0], [6.0]])
        spread = math.sqrt(7)
        half = 4.302653 * spread / math.sqrt(3)
        for band, low, high in [("minmax", 1, 6), ("std", 3 - spread, 3 + spread), ("ci95", 3 - half, 3 + half)]:
            found = mean(values, band)  # type: ignore[arg-type]
            assert (found.values[0], found.n[0]) == (3, 3)
            assert (found.low[0], found.high[0]) == pytest.approx((low, high))
        assert np.isnan(mean(values, "none").low).all()

    def test_a_point_of_one_run_has_a_mean_and_no_band(self) -> None:
        found = mean(np.array([[1.0, 2.0, math.nan], [math.nan, 4.0, math.nan]]), "ci95")
        np.testing.assert_array_equal(found.values, [1, 3, math.nan])
        assert found.n.tolist() == [1, 2, 0]
        assert np.isnan(found.low).tolist() == np.isnan(found.high).tolist() == [True, False, True]

    @given(lines(), st.integers(2, 6), st.sampled_from(BANDS[:3]))
    def test_equal_runs_have_their_values_and_a_band_without_width(self, line: Line, count: int, band: Band) -> None:
        found = mean(np.stack([line.values] * count), band)
        for side in (found.values, found.low, found.high):
            np.testing.assert_array_equal(side, line.values)

    @given(GROUPS, st.sampled_from(BANDS), st.randoms(use_true_random=False))
    def test_the_order_of_runs_changes_nothing(self, group: list[Line], band: Band, random: object) -> None:
        shuffled = list(group)
        random.shuffle(shuffled)  # type: ignore[attr-defined]
        for read in (joined, lambda several: resampled(several, 7)):
            (x, values), (again, others) = read(group), read(shuffled)
            first, second = mean(values, band), mean(others, band)
            for one, other in zip(
                (x, first.values, first.low, first.high, first.n),
                (again, second.values, second.low, second.high, second.n),
                strict=True,
            ):
                np.testing.assert_array_equal(one, other)

    @given(GROUPS, st.sampled_from(BANDS[:3]))
    def test_the_mean_lies_among_the_runs_and_in_its_band(self, group: list[Line], band: Band) -> None:
        _, values = joined(group)
        found = mean(values, band)
        known = found.n > 0
        assert (np.nanmin(values[:, known], axis=0) <= found.values[known]).all()
        assert (found.values[known] <= np.nanmax(values[:, known], axis=0)).all()
        banded = found.n > 1
        assert (found.low[banded] <= found.values[banded]).all()
        assert (found.values[banded] <= found.high[banded]).all()
