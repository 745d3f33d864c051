"""Lines and durations of tests, and the tests to run for a mutant, cheapest first."""

import json
import os
import subprocess
import sys
import tempfile
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.mutation.mutants import PACKAGES, Mutant

HERE = Path(__file__).parent
ALWAYS = {
    "worker/engine/grpo": ("tests/worker/engine/grpo/",),
    "worker/engine/training": ("tests/worker/engine/training/",),
    "service/contracts": ("tests/service/contracts/",),
}
"""Additional tests for mutants below a path. Some of them start processes, which coverage does not measure."""


@dataclass
class Timed:
    """A test, its seconds without shared fixtures, its shared fixtures, and those that it requests first."""

    own: float
    uses: tuple[str, ...] = ()
    made: tuple[str, ...] = ()


@dataclass
class CoverageMap:
    """Tests by id, seconds of shared fixtures, and the tests that executed each line in call or setup."""

    tests: dict[str, Timed]
    fixtures: dict[str, float]
    lines: dict[str, dict[int, tuple[set[str], set[str]]]]

    def stages(self, mutant: Mutant, budgets: Iterable[float], without: set[str]) -> list[tuple[list[str], float]]:
        """The tests to run in sequence, and their seconds, in stages that end at the `budgets`."""
        order = [test for test in self._ordered(mutant) if test not in without]
        stages: list[tuple[list[str], float]] = []
        spent = 0.0
        for budget in budgets:
            chosen: dict[str, None] = {}
            began, paid = spent, set[str]()
            while order and spent < budget:
                test = self.tests[order[0]]
                spent += test.own + sum(self.fixtures[name] for name in set(test.uses) - paid)
                paid |= set(test.uses)
                chosen[order.pop(0)] = None
            if chosen:
                stages.append((list(chosen), spent - began))
        return stages

    def _ordered(self, mutant: Mutant) -> list[str]:
        """All tests that may kill the mutant, with likely and fast tests first."""
        direct, mates = self._covering(mutant)
        near = next(paths for place, paths in ALWAYS.items() if mutant.file.startswith(place + "/"))
        weights = dict.fromkeys((test for test in self.tests if test.startswith(near)), 10.0 if direct else 1.0)
        weights |= {test: 3.0 for test in mates if test not in weights}
        weights |= {test: 0.3 if test.startswith(near) else 1.0 for test in direct}

        def cost(test: str) -> float:
            here = self.tests[test]
            return weights[test] * (0.05 + here.own + sum(self.fixtures[name] for name in here.uses))

        return sorted(weights, key=lambda test: (cost(test), test))

    def _covering(self, mutant: Mutant) -> tuple[set[str], set[str]]:
        """Tests that execute the mutant's statement or other code of its file, and tests whose shared fixtures do."""
        lines = self.lines.get(mutant.file, {})
        ran = range(mutant.first, mutant.last + 1)
        places = [lines[line] for line in (lines if mutant.at_import else ran) if line in lines]
        direct = {test for calls, setups in places for test in calls | setups}
        shared = {name for _, setups in places for test in setups for name in self.tests[test].made}
        return direct, {test for test, each in self.tests.items() if shared & set(each.uses)} - direct

    def save(self, file: Path) -> None:
        """Write the map as JSON, in which lines refer to tests by number."""
        number = {test: place for place, test in enumerate(self.tests)}
        lines = {
            name: {line: [sorted(number[t] for t in tests) for tests in both] for line, both in of_file.items()}
            for name, of_file in self.lines.items()
        }
        tests = [[name, round(each.own, 3), each.uses, each.made] for name, each in self.tests.items()]
        file.write_text(json.dumps({"tests": tests, "fixtures": self.fixtures, "lines": lines}))

    @classmethod
    def load(cls, file: Path) -> "CoverageMap":
        """Read a map written by `save`."""
        data = json.loads(file.read_text())
        names = [test[0] for test in data["tests"]]
        tests = {name: Timed(own, tuple(uses), tuple(made)) for name, own, uses, made in data["tests"]}
        lines = {
            name: {
                int(line): ({names[t] for t in calls}, {names[t] for t in setups})
                for line, (calls, setups) in of_file.items()
            }
            for name, of_file in data["lines"].items()
        }
        return cls(tests, data["fixtures"], lines)


def record(tree: Path, paths: list[str], directory: Path, options: list[str]) -> None:
    """Run the tests of `paths` with coverage and the recorder; their output is stored in `directory`."""
    (directory / "records").mkdir(parents=True, exist_ok=True)
    sources = "\n    ".join(PACKAGES)
    (directory / "coveragerc").write_text(f"[run]\nsource =\n    {sources}\ndata_file = {directory / 'coverage'}\n")
    measured = ["--cov", f"--cov-config={directory / 'coveragerc'}", "--cov-context=test", "--cov-report="]
    _pytest(tree, directory / "records", [*paths, *measured, *options])


def collect(tree: Path, paths: list[str], records: Path) -> None:
    """Only record which tests share fixtures, for coverage measured elsewhere."""
    records.mkdir(parents=True, exist_ok=True)
    _pytest(tree, records, [*paths, "--collect-only", "-q"])


def _pytest(tree: Path, records: Path, arguments: list[str]) -> None:
    places = os.pathsep.join([str(tree), str(HERE)])
    environment = {**os.environ, "PYTHONPATH": places, "MUTATION_RECORDS": str(records.resolve())}
    command = [sys.executable, "-m", "pytest", "-p", "recorder", *arguments]
    code = subprocess.run(command, cwd=tree, env=environment, check=False, stdout=sys.stderr).returncode
    if code not in (0, 1):  # 1: some tests failed, and the map omits them
        raise RuntimeError(f"pytest ended with status {code}, perhaps before all tests had run; there is no map")


def build(tree: Path, coverage_files: list[Path], records: list[Path]) -> CoverageMap:
    """Build the map from the measurements in `tree`. Failed and skipped tests are omitted."""
    from coverage import CoverageData  # a dependency of pytest-cov, which only this command needs

    tests, fixtures = _times(records)
    lines: dict[str, dict[int, tuple[set[str], set[str]]]] = defaultdict(lambda: defaultdict(lambda: (set(), set())))
    for data_file in coverage_files:
        data = CoverageData(str(data_file))
        data.read()
        for name in data.measured_files():
            of_file = lines[Path(name).relative_to(tree).as_posix()]
            for line, contexts in data.contexts_by_lineno(name).items():
                for test, _, phase in (context.rpartition("|") for context in contexts):
                    if test in tests:
                        of_file[line][phase == "setup"].add(test)
    return CoverageMap(tests, fixtures, {name: dict(of_file) for name, of_file in lines.items()})


def _times(directories: list[Path]) -> tuple[dict[str, Timed], dict[str, float]]:
    """Tests that passed and seconds of shared fixtures, from records of `recorder`."""
    tests: dict[str, Timed] = defaultdict(lambda: Timed(0.0))
    fixtures: dict[str, float] = defaultdict(float)
    passed, failed = set[str](), set[str]()
    for file in sorted(path for directory in directories for path in directory.glob("*.jsonl")):
        made: dict[tuple[str, str], float] = {}
        for line in file.read_text().splitlines():
            entry: dict[str, Any] = json.loads(line)
            if "fixture" in entry:
                if entry["scope"] != "function":
                    made[entry["fixture"], entry["scope"]] = entry["s"]
                continue
            test = entry["id"]
            if "uses" in entry:
                tests[test].uses = tuple(sorted(_key(test, name, scope) for name, scope in entry["uses"].items()))
                continue
            if entry["when"] == "setup":  # the newest run of a test counts
                tests[test].own = -sum(made.values())
                tests[test].made = tuple(_key(test, *which) for which in made)
                for which, seconds in made.items():
                    fixtures[_key(test, *which)] = max(fixtures[_key(test, *which)], seconds)
                made = {}
            tests[test].own += entry["s"]
            if entry["when"] == "call" and entry["o"] == "passed":
                passed.add(test)
            if entry["o"] == "failed":
                failed.add(test)
    good = {test: each for test, each in tests.items() if test in passed - failed}
    for each in good.values():
        each.own = max(each.own, 0.0)
        each.uses = tuple(name for name in each.uses if fixtures.get(name, 0.0) > 0)
    return good, dict(fixtures)


def _key(test: str, fixture: str, scope: str) -> str:
    """A key of a fixture instance, which differs between modules for module fixtures."""
    return f"{test.partition('::')[0]}::{fixture}" if scope in {"module", "class"} else fixture


def make(tree: Path, out: Path, paths: list[str], measured: tuple[list[Path], list[Path]], options: list[str]) -> None:
    """Measure coverage and times, or use `measured`, and write the map to `out`."""
    with tempfile.TemporaryDirectory() as temporary:
        directory = Path(temporary)
        coverage, records = measured
        if coverage:
            collect(tree, paths, directory / "records")
        else:
            record(tree, paths, directory, options)
            coverage = [directory / "coverage"]
        # The collection record comes last, because it has the tests' fixtures but no durations.
        build(tree, coverage, [*records, directory / "records"]).save(out)
