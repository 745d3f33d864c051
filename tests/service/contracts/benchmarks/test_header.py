"""The problem reported for a header without required columns."""

import pytest

from service.contracts.benchmarks.csv_reader import read_prompts
from service.contracts.benchmarks.official import FILES


@pytest.mark.parametrize(("columns", "listed"), [(3, 3), (10, 10), (11, 10), (500, 10)])
def test_at_most_ten_columns_are_listed(columns: int, listed: int) -> None:
    header = ",".join(f"c{n}" for n in range(columns))
    (problem,) = read_prompts(f"{header}\n".encode(), FILES[0]).problems
    assert problem.row == 1
    assert problem.description.endswith("the header has " + ", ".join(f"'c{n}'" for n in range(listed)))
