"""The mutants of a source, the seeded sample, the choice of tests, and the report."""

from pathlib import Path

import pytest

from tests.mutation.coverage_map import CoverageMap, Timed
from tests.mutation.mutants import Mutant, mutants_of, sample
from tests.mutation.report import equivalents, report
from tests.mutation.runner import read

SOURCE = '''"""A module."""
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import os

__all__ = ["f"]
LIMIT: "int" = 3


class Spec:
    """A class."""

    size: int = Field(8, ge=2, description="one two")
    """An attribute."""


def f(x: int, names: list[str]) -> int | None:
    """A function."""
    if x < LIMIT and not names:
        raise ValueError(f"{x} < {LIMIT}" + "small")
    log.info("called", count=1)
    self.total = max(x, 5)
    names.append("key")
    return names[x + 1 :]
'''


def changes(line_text: str) -> set[tuple[str, str]]:
    """The mutants of the only line that starts with the text."""
    number = next(n for n, line in enumerate(SOURCE.splitlines(), 1) if line.strip().startswith(line_text))
    return {(m.before, m.after) for m in mutants_of("p", "p/f.py", SOURCE) if m.line == number}


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("LIMIT", {("3", "4")}),
        ("size", {("8", "9"), ("2", "3")}),
        (
            "if x",
            {
                ("x < LIMIT and not names", "(x < LIMIT or not names)"),
                ("x < LIMIT", "(x <= LIMIT)"),
                ("x < LIMIT", "(x >= LIMIT)"),
                ("not names", "(names)"),
            },
        ),
        ("self.total", {("self.total = max(x, 5)", "pass"), ("max", "min"), ("5", "6")}),
        ("names.append", {('names.append("key")', "pass"), ('"key"', "'XXkey'")}),
        (
            "return",
            {
                ("return names[x + 1 :]", "return None"),
                ("x + 1", "(x + 1) + 1"),
                ("x + 1", "(x - 1)"),
                ("1", "0"),
            },
        ),
    ],
)
def test_each_operator_of_a_line_has_its_mutants(line: str, expected: set[tuple[str, str]]) -> None:
    assert changes(line) == expected


@pytest.mark.parametrize("line", ['"""', "import", "__all__", "raise", "log", "def", "class"])
def test_texts_annotations_logs_and_messages_have_no_mutants(line: str) -> None:
    assert changes(line) == set()


def test_a_mutant_changes_only_its_position_and_rejects_another_source() -> None:
    mutant = next(m for m in mutants_of("p", "p/f.py", SOURCE) if m.after == "min")
    assert (mutant.text, mutant.becomes) == ("self.total = max(x, 5)", "self.total = min(x, 5)")
    assert mutant.apply(SOURCE.encode()).decode() == SOURCE.replace("max", "min")
    with pytest.raises(ValueError, match="sample again"):
        mutant.apply(b"\n" + SOURCE.encode())


def test_lines_and_scope_of_a_mutant_are_known() -> None:
    mutants = {m.after: m for m in mutants_of("p", "p/f.py", SOURCE)}
    assert (mutants["4"].at_import, mutants["4"].function) == (True, "")
    assert (mutants["9"].at_import, mutants["9"].function) == (True, "Spec")
    assert (mutants["min"].at_import, mutants["min"].function) == (False, "f")


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    (tmp_path / "p").mkdir()
    (tmp_path / "p/f.py").write_text(SOURCE)
    return tmp_path


def test_a_sample_depends_on_its_seed_and_has_distinct_mutants(tree: Path) -> None:
    some = list(sample(tree, "p", 12, 1))
    assert some == list(sample(tree, "p", 12, 1)) != list(sample(tree, "p", 12, 2))
    assert len({(m.start, m.end, m.after) for m in some}) == 12
    assert len({m.line for m in some}) == len({m.line for m in mutants_of("p", "p/f.py", SOURCE)})
    everything = list(sample(tree, "p", 1000, 1))
    assert len(everything) == len(mutants_of("p", "p/f.py", SOURCE)) and everything[:12] == some


def made(line: int, file: str = "worker/engine/grpo/x.py") -> Mutant:
    return Mutant(
        "worker/engine/grpo", file, "f", line, "x = 1", 4, line, line, False, "constant", "1", "0", 0, 1, f"m{line}"
    )


def test_covering_tests_run_in_stages_by_cost_and_shared_fixtures_add_their_tests() -> None:
    tests = {
        "tests/a.py::slow": Timed(9.0),
        "tests/a.py::quick": Timed(1.0),
        "tests/b.py::first": Timed(1.0, ("tests/b.py::model",), ("tests/b.py::model",)),
        "tests/b.py::mate": Timed(1.0, ("tests/b.py::model",)),
        "tests/c.py::other": Timed(1.0),
    }
    lines = {"worker/engine/grpo/x.py": {1: ({"tests/a.py::slow", "tests/a.py::quick"}, {"tests/b.py::first"})}}
    known = CoverageMap(tests, {"tests/b.py::model": 2.0}, {k: dict(v) for k, v in lines.items()})
    stages = known.stages(made(1), [3.5, 20.0], {"tests/c.py::other"})
    assert stages[0] == (["tests/a.py::quick", "tests/b.py::first"], 4.0)
    assert stages[1] == (["tests/a.py::slow", "tests/b.py::mate"], 12.0)
    assert known.stages(made(2), [3.5], set()) == []


def test_a_coverage_map_survives_saving_and_loading(tmp_path: Path) -> None:
    known = CoverageMap({"a": Timed(1.0, ("s",)), "b": Timed(2.0)}, {"s": 3.0}, {"f.py": {7: ({"a"}, {"a", "b"})}})
    known.save(tmp_path / "map.json")
    assert CoverageMap.load(tmp_path / "map.json") == known


def test_results_of_a_test_that_fails_without_a_mutant_do_not_count(tmp_path: Path) -> None:
    (tmp_path / "r.jsonl").write_text('{"id": "m1", "by": "t1"}\n{"id": "m2", "by": "t2"}\n{"broken": "t1"}\n')
    results, broken = read(tmp_path / "r.jsonl")
    assert list(results) == ["m2"] and broken == {"t1"}


def result(outcome: str) -> dict[str, object]:
    return {"outcome": outcome, "tests": 1, "left_out": 0}


def test_the_report_fails_if_the_new_suite_misses_a_mutant_that_the_old_one_kills() -> None:
    mutants = [made(line) for line in range(10)]
    killed = {m.id: result("killed") for m in mutants}
    text, good = report(mutants, {"old": killed, "new": killed}, {})
    assert good and "| worker/engine/grpo | 10 | 0 | new | 10 | 0 | 100.0 |" in text
    text, good = report(mutants, {"old": killed, "new": killed | {"m3": result("survived")}}, {})
    assert not good and "Killed by old, not by new: 1\n- m3 worker/engine/grpo/x.py:3 f: `1` → `0`" in text


def test_at_most_a_tenth_of_the_mutants_is_excluded_as_equivalent(tmp_path: Path) -> None:
    fields = {"file": "worker/engine/grpo/x.py", "function": "f", "text": "x = 1", "becomes": "x = 0"}
    entry = "\n".join(["[[mutant]]", *(f'{name} = "{value}"' for name, value in fields.items()), 'reason = "the same"'])
    (tmp_path / "equivalent.toml").write_text(entry)
    reasons = equivalents([made(1), made(2, "worker/engine/grpo/y.py")], tmp_path / "equivalent.toml")
    assert reasons == {"m1": "the same"}
    mutants = [made(line) for line in range(5)]
    killed = {m.id: result("killed") for m in mutants}
    assert not report(mutants, {"new": killed}, reasons)[1]
