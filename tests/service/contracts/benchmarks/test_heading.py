"""What is told of a heading that lacks columns."""

import pytest

from service.contracts.benchmarks.official import FILES
from service.contracts.benchmarks.reading import read_prompts


@pytest.mark.parametrize(("columns", "told"), [(3, 3), (10, 10), (11, 10), (500, 10)])
def test_up_to_ten_of_its_columns_are_told(columns: int, told: int) -> None:
    heading = ",".join(f"c{n}" for n in range(columns))
    (problem,) = read_prompts(f"{heading}\n".encode(), FILES[0]).problems
    assert problem.row == 1
    assert problem.description.endswith("the heading has " + ", ".join(f"'c{n}'" for n in range(told)))
