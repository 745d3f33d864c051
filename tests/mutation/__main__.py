"""`python -m tests.mutation COMMAND`: mutation testing; see docs/explanation/testing.md."""

import argparse
import json
import sys
from dataclasses import asdict
from pathlib import Path

from tests.mutation import coverage_map, report, runner
from tests.mutation.mutants import PACKAGES, Mutant, sample

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
MUTANTS = ROOT / ".mutation/mutants.json"


def main() -> int:
    """Exit status 1 when the report finds something wrong."""
    options = _options()
    if options.command == "sample":
        sampled = [each for package in PACKAGES for each in sample(ROOT, package, options.count, options.seed)]
        options.mutants.parent.mkdir(exist_ok=True)
        options.mutants.write_text(json.dumps([asdict(mutant) for mutant in sampled], indent=0), encoding="utf-8")
        return 0
    if options.command == "map":
        coverage_map.make(options.tree, options.out, options.paths, (options.data, options.times), options.pytest)
        return 0
    mutants = [Mutant(**each) for each in json.loads(options.mutants.read_text(encoding="utf-8"))]
    if options.command == "run":
        tests = coverage_map.CoverageMap.load(options.map)
        run = runner.Run(options.tree, tests, options.out, options.budgets, options.shared)
        for package in options.package or PACKAGES:
            chosen = [mutant for mutant in mutants if mutant.package == package][: options.first]
            run.perform(package, chosen, options.jobs)
        return 0
    suites = {file.stem: runner.read(file)[0] for file in options.results}
    text, good = report.report(mutants, suites, report.equivalents(mutants))
    sys.stdout.write(text)
    return 0 if good else 1


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.mutation", description=__doc__)
    parser.add_argument("--mutants", type=Path, default=MUTANTS, help="the file of the sample")
    commands = parser.add_subparsers(dest="command", required=True)
    drawing = commands.add_parser("sample", help="draw mutants of this tree's packages")
    drawing.add_argument("--seed", type=int, default=2026)
    drawing.add_argument("--count", type=int, default=110, help="of each package")
    mapping = commands.add_parser("map", help="run tests and note which lines each runs; needs pytest-cov")
    mapping.add_argument("--tree", type=_directory, default=ROOT)
    mapping.add_argument("--out", type=Path, required=True)
    mapping.add_argument("--data", type=_directory, action="append", default=[], help="coverage measured already")
    mapping.add_argument("--times", type=_directory, action="append", default=[], help="directory of its times")
    mapping.add_argument("--pytest", action="append", default=[], help="an option for pytest, such as --pytest=-n2")
    mapping.add_argument("paths", nargs="*", default=["tests"])
    running = commands.add_parser("run", help="run the sample's mutants against a tree's tests")
    running.add_argument("--tree", type=_directory, default=ROOT)
    running.add_argument("--map", type=Path, required=True)
    running.add_argument("--out", type=Path, required=True, help="results; continued where it exists")
    running.add_argument("--package", action="append", choices=PACKAGES)
    running.add_argument("--first", type=int, help="maximum number of mutants per package")
    running.add_argument("--jobs", type=int, default=2)
    running.add_argument("--budgets", type=float, nargs="+", default=[4.0, 60.0, 240.0], help="seconds, increasing")
    running.add_argument(
        "--shared", type=_directory, default=_shared(), help="data for tests; default: a shared/ above"
    )
    reporting = commands.add_parser("report", help="compare suites and check the last one")
    reporting.add_argument("results", type=Path, nargs="+")
    return parser.parse_args()


def _directory(text: str) -> Path:
    return Path(text).resolve()


def _shared() -> Path | None:
    return next((up / "shared" for up in ROOT.parents if (up / "shared/golden").is_dir()), None)


if __name__ == "__main__":
    sys.exit(main())
