"""Runs mutants against the tests of a tree, each in a copy of it, and writes each result as a line of JSON."""

import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.mutation.coverage_map import CoverageMap
from tests.mutation.mutants import Mutant

KILLED = {"killed", "crashed", "timeout"}
_WARM = Path(__file__).with_name("warm.py")
_LEAST_LIMIT, _SLOWER = 60.0, 8.0
"""Time limit of a stage: seconds, and the factor on the duration of its tests."""


class Warm:
    """A copy of the tree, and a process in it that forks one for each mutant's tests."""

    def __init__(self, tree: Path, package: str, tests: CoverageMap, shared: Path | None) -> None:
        self.directory = Path(tempfile.mkdtemp(prefix="mut-")).resolve()
        self.tree = self.directory / "tree"
        ignored = shutil.ignore_patterns(".git", ".venv", "__pycache__", "*.egg-info", ".hypothesis", ".*_cache")
        shutil.copytree(tree, self.tree, ignore=ignored)
        (self.directory / "tmp").mkdir()
        threads = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
        environment = {**os.environ, **threads, "PYTHONPATH": str(self.tree), "TMPDIR": str(self.directory / "tmp")}
        if shared is not None:
            environment["SHARED_DATA"] = str(shared)
        environment.pop("PYTHONDONTWRITEBYTECODE", None)  # compiled files are reused for the next mutant
        command = [sys.executable, "-P", str(_WARM), str(self.tree), package]
        self.log = (self.directory / "log.txt").open("wb")
        pipe = subprocess.PIPE
        self.process = subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=self.log, text=True, env=environment)
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(sorted({test.partition("::")[0] for test in tests.tests})) + "\n")

    def run(self, file: str, source: str | None, stages: list[tuple[list[str], float]]) -> dict[str, Any]:
        """Return the result of a changed source, or of the unchanged tree if it is None."""
        assert self.process.stdin is not None and self.process.stdout is not None
        limited_stages = [{"tests": tests, "limit": _LEAST_LIMIT + _SLOWER * seconds} for tests, seconds in stages]
        self.process.stdin.write(json.dumps({"file": file, "source": source, "stages": limited_stages}) + "\n")
        self.process.stdin.flush()
        if not (line := self.process.stdout.readline()):
            raise RuntimeError(f"the warm process ended; see {self.directory}/log.txt")
        reply: dict[str, Any] = json.loads(line)
        return reply

    def close(self) -> None:
        """End the process and remove the copy."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait()
        self.log.close()
        shutil.rmtree(self.directory, ignore_errors=True)


class Run:
    """The run of a test suite over mutants, which continues an existing results file."""

    def __init__(self, tree: Path, tests: CoverageMap, out: Path, budgets: list[float], shared: Path | None) -> None:
        self.tree, self.tests, self.out, self.budgets, self.shared = tree, tests, out, budgets, shared
        self.lock = threading.Lock()
        self.results, self.broken = read(out)

    def perform(self, package: str, mutants: list[Mutant], jobs: int) -> None:
        """Run the mutants of a package, then check that the tests that killed them pass without a mutant."""
        while waiting := [mutant for mutant in mutants if mutant.id not in self.results]:
            queue = iter(waiting)
            threads = [
                threading.Thread(target=self._work, args=(package, queue)) for _ in range(min(jobs, len(waiting)))
            ]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            if any(mutant.id not in self.results for mutant in mutants):
                raise RuntimeError("some mutants were not run")
            self._check(package, mutants)

    def _work(self, package: str, queue: Iterator[Mutant]) -> None:
        warm = Warm(self.tree, package, self.tests, self.shared)
        try:
            while True:
                with self.lock:
                    mutant = next(queue, None)
                if mutant is None:
                    return
                result = self._one(warm, mutant)
                with self.lock:
                    self._write(result)
        finally:
            warm.close()

    def _one(self, warm: Warm, mutant: Mutant) -> dict[str, Any]:
        source = mutant.apply((self.tree / mutant.file).read_bytes()).decode()
        stages = self.tests.stages(mutant, [*self.budgets, float("inf")], self.broken)
        left_out = sum(len(tests) for tests, _ in stages[len(self.budgets) :])
        stages = stages[: len(self.budgets)]
        result = {"id": mutant.id, "tests": sum(len(tests) for tests, _ in stages), "left_out": left_out}
        if not stages:
            return result | {"outcome": "survived", "by": None}
        became = warm.run(mutant.file, source, stages)
        if became["outcome"] == "timeout":  # an endless loop times out again; a temporarily stalled machine does not
            became = warm.run(mutant.file, source, stages)
        return result | became

    def _check(self, package: str, mutants: list[Mutant]) -> None:
        """Discard results of tests that also fail without a mutant."""
        ids = {mutant.id for mutant in mutants}
        killers = {result["by"] for name, result in self.results.items() if name in ids} & set(self.tests.tests)
        seconds = sum(self.tests.tests[test].own for test in killers) + sum(self.tests.fixtures.values())
        warm = Warm(self.tree, package, self.tests, self.shared)
        try:
            while killers:
                reply = warm.run(mutants[0].file, None, [(sorted(killers), seconds)])
                if reply["outcome"] == "survived":
                    return
                if reply["by"] not in killers:
                    raise RuntimeError(f"without a mutant: {reply}; see {warm.directory}/log.txt")
                killers.remove(reply["by"])
                self._write({"broken": reply["by"]})
        finally:
            warm.close()

    def _write(self, result: dict[str, Any]) -> None:
        with self.out.open("a", encoding="utf-8") as file:
            file.write(json.dumps(result) + "\n")
        _take(result, self.results, self.broken)


def read(out: Path) -> tuple[dict[str, dict[str, Any]], set[str]]:
    """Results by mutant, and the tests that fail without a mutant."""
    results: dict[str, dict[str, Any]] = {}
    broken: set[str] = set()
    for line in out.read_text(encoding="utf-8").splitlines() if out.exists() else []:
        _take(json.loads(line), results, broken)
    return results, broken


def _take(line: dict[str, Any], results: dict[str, dict[str, Any]], broken: set[str]) -> None:
    """Record a result, or a test that fails without a mutant, whose kills are then discarded."""
    if "broken" not in line:
        results[line["id"]] = line
        return
    broken.add(line["broken"])
    for name in [name for name, result in results.items() if result["by"] == line["broken"]]:
        del results[name]
